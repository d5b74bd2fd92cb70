"""What a planner needs to know of a corpus before anything is tokenised: `facts` and `require`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.data.corpora import open_corpus
from trainer.data.documents import with_boundaries
from trainer.data.errors import DataError
from trainer.data.manifest import DataManifest
from trainer.data.shards import find_prepared
from trainer.data.source import DataSource


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """Size of a corpus in tokens."""

    train_tokens: int
    """Training tokens of one pass: the unique ones."""
    validation_tokens: int
    """Held-out tokens."""
    vocab_size: int
    """Number of token ids."""
    bytes_per_token: float
    """Bytes of training text per token."""
    digest: str | None
    """Identity of the token files; None before they are prepared."""
    exact: bool
    """Whether the counts are those of the token files rather than an estimate."""


def facts(source: DataSource, *, cache_root: Path | None = None) -> DataFacts:
    """Count or estimate the tokens of a source.

    Exact when it is prepared in `cache_root`, and with the byte tokenizer; otherwise estimated.

    Args:
        source: the corpus and its tokenizer.
        cache_root: where `prepare` would put it.

    Raises:
        DataError: when the source breaks a rule, as `prepare` would.
    """
    if cache_root is not None and (folder := find_prepared(source, cache_root=cache_root)):
        return _of_manifest(DataManifest.read(folder))
    tokens = {False: 0, True: 0}
    separators = source.separator == "auto"
    for document, begins in with_boundaries(open_corpus(source).documents()):
        tokens[document.validation] += len(document.data) + (begins and separators)
    return DataFacts(
        train_tokens=tokens[False],
        validation_tokens=tokens[True],
        vocab_size=256,
        bytes_per_token=1.0,
        digest=None,
        exact=True,
    )


def _of_manifest(manifest: DataManifest) -> DataFacts:
    """Facts of a prepared corpus."""
    return DataFacts(
        train_tokens=manifest.train_tokens,
        validation_tokens=manifest.validation_tokens,
        vocab_size=manifest.vocab_size,
        bytes_per_token=manifest.bytes_per_token,
        digest=manifest.digest,
        exact=True,
    )


def require(data: DataFacts, *, context: int, batch_sequences: int = 1) -> None:
    """Refuse a corpus too short to train or validate on.

    A training window is `context` tokens and the one after them. Validation needs one window,
    training a whole batch of them that do not overlap.

    Args:
        data: the corpus.
        context: tokens per sequence.
        batch_sequences: sequences per optimiser step.

    Raises:
        DataError: `corpus-too-short` or `validation-too-short`, with the least that works.
    """
    needed = batch_sequences * context + 1
    if data.train_tokens < needed:
        raise DataError(
            "corpus-too-short",
            "corpus",
            f"training must hold at least one batch of {batch_sequences:,} x {context:,} + 1 = "
            f"{needed:,} tokens; it holds {data.train_tokens:,}",
            "Name a longer corpus, or lower the context or the batch",
        )
    if data.validation_tokens < context + 1:
        raise DataError(
            "validation-too-short",
            "validation",
            f"validation must hold at least one window of {context:,} + 1 tokens; it holds "
            f"{data.validation_tokens:,}",
            "Raise validation_fraction, name a longer corpus, or lower the context",
        )
