"""The record beside a pair of token files: what they hold, counted with units, and its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.data.errors import DataError

SCHEMA = "trainer.data/1"
MANIFEST_NAME = "manifest.json"

DType = Literal["uint16", "uint32"]

UNITS = {
    "*_tokens": "tokens of the named tokenizer, separators included; one pass over the split, so "
    "train_tokens is the number of unique training tokens",
    "*_bytes": "bytes of UTF-8 text; a separator counts as one byte",
    "*_words": "runs of characters other than white space",
    "*_documents": "pieces that went to the split whole (see `split`)",
    "*_distinct_tokens": "token ids that occur at least once",
    "bytes_per_token": "train_bytes / train_tokens",
    "*_unigram_entropy": "H1, nats per token, in sample",
    "*_bigram_entropy": "H2 = H(token | token before), nats per token, in sample, over the first "
    "statistics_tokens tokens of the split",
    "entropy_rate": "irreducible loss of the generator, nats per character",
    "skipped_documents": "files left out because they are not UTF-8",
    "shared_fraction": "fraction of the validation bytes that also occur in training; null: split "
    "by document, not looked for",
}
"""What each count of the manifest counts."""


def dtype_for(vocab_size: int) -> DType:
    """Narrowest token type: `uint16` as long as every id is at most 65,535."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCounts:
    """What one split holds; `UNITS` says what each count counts."""

    tokens: int
    """Tokens in the file."""
    bytes: int
    """Bytes of the text of those tokens."""
    words: int
    """White-space separated words of that text."""
    documents: int
    """Documents of the split."""
    distinct_tokens: int
    """Token ids that occur."""
    unigram_entropy: float
    """H1, nats per token."""
    bigram_entropy: float
    """H2, nats per token."""
    statistics_tokens: int
    """Tokens that H2 was measured on."""
    sha256: str
    """SHA-256 of the token file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataManifest:
    """Everything a trainer or a planner needs to know about a prepared corpus."""

    schema: str = SCHEMA
    """Version of this record."""
    digest: str
    """What the model sees: SHA-256 over both token files, tokenizer and vocabulary size."""
    vocab_size: int
    """Number of token ids; the model's vocabulary."""
    train_tokens: int
    """Tokens in `train.bin`: unique training tokens."""
    validation_tokens: int
    """Tokens in `validation.bin`."""
    train_bytes: int
    """Bytes of the text of the training tokens."""
    validation_bytes: int
    """Bytes of the text of the validation tokens."""
    bytes_per_token: float
    """`train_bytes / train_tokens`."""
    dtype: DType
    """Type of a token in the files, little-endian."""
    tokenizer: str
    """Name of the tokenizer."""
    tokenizer_digest: str
    """SHA-256 of what the tokenizer does."""
    separator: int | None
    """Token between documents; None where the tokenizer has none."""
    source: str
    """Readable description of the corpus."""
    source_digest: str
    """SHA-256 of the content the tokens were made from, and of the settings."""
    split: str
    """How train and validation were told apart, in words."""
    train_documents: int
    """Documents in the training split."""
    validation_documents: int
    """Documents in the validation split."""
    train_words: int
    """Words in the training split."""
    validation_words: int
    """Words in the validation split."""
    train_distinct_tokens: int
    """Token ids that occur in training."""
    validation_distinct_tokens: int
    """Token ids that occur in validation."""
    train_unigram_entropy: float
    """H1 of training, nats per token: the loss of a model that knows token frequencies only."""
    train_bigram_entropy: float
    """H2 of training, nats per token: the loss of a model that knows token pairs only."""
    validation_unigram_entropy: float
    """H1 of validation, nats per token."""
    validation_bigram_entropy: float
    """H2 of validation, nats per token."""
    statistics_tokens: int
    """Tokens that the training split's H2 was measured on."""
    entropy_rate: float | None = None
    """Exact irreducible loss of a synthetic corpus, nats per character."""
    skipped_documents: int = 0
    """Files left out because they are not UTF-8."""
    shared_fraction: float | None = None
    """Fraction of the validation bytes that also occur in training, where that was looked for."""
    train_sha256: str
    """SHA-256 of `train.bin`."""
    validation_sha256: str
    """SHA-256 of `validation.bin`."""
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))
    """What each count counts."""

    def to_json(self) -> str:
        """Serialise; floats round-trip exactly and non-finite ones are refused."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, place: str = "manifest") -> DataManifest:
        """Inverse of `to_json`.

        Args:
            text: JSON text.
            place: where the text came from, for the error message.

        Raises:
            DataError: `manifest-damaged` when the text is not a manifest of this version.
        """
        remedy = "Remove the folder and prepare the corpus again"
        try:
            record: Any = json.loads(text)
        except ValueError as error:
            raise DataError("manifest-damaged", place, f"not JSON: {error}", remedy) from error
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(record, dict) or set(record) != names:
            got = set(record) if isinstance(record, dict) else set()
            raise DataError(
                "manifest-damaged",
                place,
                f"its keys must be those of schema {SCHEMA}; missing {sorted(names - got)}, "
                f"unknown {sorted(got - names)}",
                remedy,
            )
        if record["schema"] != SCHEMA:
            message = f"its schema must be {SCHEMA}, got {record['schema']!r}"
            raise DataError("manifest-damaged", place, message, remedy)
        return cls(**record)

    @classmethod
    def read(cls, data_dir: Path) -> DataManifest:
        """Read the manifest of a prepared folder.

        Raises:
            DataError: `tokens-missing` without a manifest, `manifest-damaged` with a broken one.
        """
        path = data_dir / MANIFEST_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(
                "tokens-missing",
                str(path),
                "a prepared corpus must hold a manifest, and there is none",
                "Prepare the corpus first",
            ) from error
        return cls.from_json(text, place=str(path))

    @property
    def uniform_entropy(self) -> float:
        """Loss of a model that knows nothing, ln V, nats per token."""
        return math.log(self.vocab_size)


def digest_of(
    *, train_sha256: str, validation_sha256: str, tokenizer_digest: str, vocab_size: int
) -> str:
    """Identity of what a model sees, free of paths, names and settings."""
    parts = [train_sha256, validation_sha256, tokenizer_digest, str(vocab_size)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
