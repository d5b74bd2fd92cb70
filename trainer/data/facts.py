"""What a planner needs to know of a corpus before anything is tokenised: `facts` and `require`."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from trainer.data.corpora import open_corpus
from trainer.data.documents import Corpus, with_boundaries
from trainer.data.errors import DataError
from trainer.data.manifest import DataManifest
from trainer.data.shards import find_prepared
from trainer.data.source import DataSource

READ_THROUGH_BYTES = 1 << 26
"""Corpora up to this size on disk are read through; larger ones are estimated from their sizes."""
SAMPLE_BYTES = 1 << 19
"""Text that a tokenizer is tried on for an estimate."""
BPE_BYTES_PER_TOKEN = ((257, 1.0), (566, 2.0), (4096, 3.5), (50257, 4.4))
"""Bytes per token against vocabulary size, measured on plays (566), Python source (4,096) and
Wikipedia (50,257) with vocabularies trained on such text; between them, linear in ln V."""


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

    Exact when it is prepared in `cache_root`, and for byte and char tokenizers on corpora of up to
    `READ_THROUGH_BYTES`; otherwise estimated from the bytes of text.

    Args:
        source: the corpus and its tokenizer.
        cache_root: where `prepare` would put it.

    Raises:
        DataError: when the source breaks a rule, as `prepare` would.
    """
    if cache_root is not None and (folder := find_prepared(source, cache_root=cache_root)):
        return _of_manifest(DataManifest.read(folder))
    corpus = open_corpus(source)
    estimate = _split_bytes(source, corpus)
    kind = source.tokenizer_kind
    if kind == "byte":
        counted = estimate or _count_bytes(source, corpus)
        return _checked(corpus, counted, vocab_size=256, ratio=1.0, exact=estimate is None)
    if kind == "char":
        return _char_facts(source, corpus, estimate)
    sizes = estimate or _count_bytes(source, corpus)
    if kind == "bpe":
        vocab_size, ratio = source.bpe_size, _bpe_bytes_per_token(source.bpe_size)
    else:
        vocab_size, ratio = _sample(source, corpus)
    counted = (max(1, round(sizes[0] / ratio)), max(1, round(sizes[1] / ratio)))
    if 0 in sizes:
        counted = sizes
    return _checked(corpus, counted, vocab_size=vocab_size, ratio=ratio, exact=False)


def _split_bytes(source: DataSource, corpus: Corpus) -> tuple[int, int] | None:
    """Bytes of training and validation text from sizes alone; None: read it through instead."""
    fraction = source.validation_fraction
    if source.corpus_kind == "hub":
        from trainer.data.hub import TRAIN_SPLIT, HubCorpus

        assert isinstance(corpus, HubCorpus)
        sizes = corpus.split_bytes()
        train = sizes.get(TRAIN_SPLIT, 0)
        if not train:
            raise DataError(
                "corpus-size-unknown",
                corpus.description,
                f"to plan with a data set that is not prepared, the hub must state the size of its "
                f"split {TRAIN_SPLIT}, and it does not",
                "Prepare the corpus first: then its counts are known exactly",
            )
        if corpus.validation_split is not None:
            return train, sizes.get(corpus.validation_split, 0)
        if corpus.validation_files is not None:
            return train, open_corpus(corpus.validation_files).size_bytes or 0
        return round(train * (1 - fraction)), round(train * fraction)
    if source.corpus_kind != "local" or (corpus.size_bytes or 0) <= READ_THROUGH_BYTES:
        return None
    from trainer.data.files import FileCorpus
    from trainer.data.rows import expanded_bytes

    assert isinstance(corpus, FileCorpus)
    column = source.text_column
    train = expanded_bytes(corpus.train, column=column)
    if corpus.validation:
        return train, expanded_bytes(corpus.validation, column=column)
    return round(train * (1 - fraction)), round(train * fraction)


def _count_bytes(source: DataSource, corpus: Corpus) -> tuple[int, int]:
    """Bytes of each split, separators counted as one."""
    sizes = {False: 0, True: 0}
    separators = source.separator == "auto"
    for document, begins in with_boundaries(corpus.documents()):
        sizes[document.validation] += len(document.data) + (begins and separators)
    return sizes[False], sizes[True]


def _char_facts(source: DataSource, corpus: Corpus, estimate: tuple[int, int] | None) -> DataFacts:
    """Count characters and the vocabulary, in the whole text or in a sample."""
    counts = {False: 0, True: 0}
    size = sampled = 0
    characters: set[str] = set()
    for document in corpus.documents():
        text = document.data.decode("utf-8")
        counts[document.validation] += len(text)
        sampled += len(document.data)
        if not document.validation:
            size += len(document.data)
        if not (source.validation and document.validation):
            characters.update(text)
        if estimate is not None and sampled >= SAMPLE_BYTES:
            break
    if estimate is None:
        counted = counts[False], counts[True]
        ratio = size / max(1, counts[False])
    else:
        ratio = sampled / max(1, sum(counts.values()))
        counted = round(estimate[0] / ratio), round(estimate[1] / ratio)
    return _checked(
        corpus, counted, vocab_size=len(characters), ratio=ratio, exact=estimate is None
    )


def _bpe_bytes_per_token(size: int) -> float:
    """Interpolate `BPE_BYTES_PER_TOKEN`; constant beyond its last vocabulary."""
    for (small, low), (large, high) in itertools.pairwise(BPE_BYTES_PER_TOKEN):
        if size <= large:
            return low + (high - low) * math.log(size / small) / math.log(large / small)
    return BPE_BYTES_PER_TOKEN[-1][1]


def _sample(source: DataSource, corpus: Corpus) -> tuple[int, float]:
    """Vocabulary of a ready tokenizer and its bytes per token on the beginning of the corpus."""
    from trainer.data.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(source, corpus, on_read=lambda _: None)
    texts: list[bytes] = []
    size = 0
    for document in corpus.documents():
        texts.append(document.data)
        size += len(document.data)
        if size >= SAMPLE_BYTES:
            break
    tokens = sum(len(ids) for ids in tokenizer.encode(texts))
    return tokenizer.vocab_size, size / max(1, tokens)


def _checked(
    corpus: Corpus, counted: tuple[int, int], *, vocab_size: int, ratio: float, exact: bool
) -> DataFacts:
    """Make the record; a split without text is refused as `prepare` refuses it."""
    from trainer.data.shards import check_not_empty

    check_not_empty(corpus, train_tokens=counted[0], validation_tokens=counted[1])
    return DataFacts(
        train_tokens=counted[0],
        validation_tokens=counted[1],
        vocab_size=vocab_size,
        bytes_per_token=ratio,
        digest=None,
        exact=exact,
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
