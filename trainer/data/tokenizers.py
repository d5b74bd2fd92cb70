"""Tokenizers behind one interface: bytes of UTF-8 text to arrays of token ids, and back.

A tokenizer is saved beside the token files it made, so that a trained model's output can be read
without the source: `save_tokenizer` and `load_tokenizer`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.data.documents import Corpus
from trainer.data.errors import DataError
from trainer.data.source import DataSource

TokenArray = npt.NDArray[np.unsignedinteger]

RECORD_NAME = "tokenizer_kind.json"


class Tokenizer(Protocol):
    """What turns text into token ids."""

    @property
    def name(self) -> str:
        """Name, for a person."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def separator(self) -> int | None:
        """Token that stands between documents; None where there is none."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the tokenizer does."""

    def encode(self, texts: Sequence[bytes], /) -> list[TokenArray]:
        """Token ids of each UTF-8 text, one array of shape (tokens,) each; nothing is added."""

    def decode(self, tokens: Sequence[int], /) -> bytes:
        """Text of token ids, as bytes: a cut through a character is no error."""

    def save(self, folder: Path, /) -> None:
        """Write what `load_tokenizer` needs into an existing folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteTokenizer:
    """A token is a byte: 256 ids, nothing to learn, every file can be written with it.

    Documents are separated by the byte 0. UTF-8 text holds no NUL of its own (a newline would be
    taken for text), so the end of a document is unambiguous and the vocabulary stays at 256.
    """

    @property
    def name(self) -> str:
        """Always `byte`."""
        return "byte"

    @property
    def vocab_size(self) -> int:
        """Always 256."""
        return 256

    @property
    def separator(self) -> int:
        """The byte 0."""
        return 0

    @property
    def digest(self) -> str:
        """SHA-256 of the name of this mapping."""
        return hashlib.sha256(b"byte: id = value of the byte; separator 0").hexdigest()

    def encode(self, texts: Sequence[bytes], /) -> list[TokenArray]:
        """Return the bytes of each text, uint8."""
        return [np.frombuffer(text, dtype=np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int], /) -> bytes:
        """Return the bytes."""
        return bytes(tokens)

    def save(self, folder: Path, /) -> None:
        """Write the kind: there is nothing else to keep."""
        write_record(folder, {"kind": "byte"})


def write_record(folder: Path, record: dict[str, object]) -> None:
    """Write the small file that says which tokenizer a folder holds."""
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def tokenizer_identity(source: DataSource) -> str:
    """Name of the tokenizer that tells apart all that could give other tokens, without loading it.

    A tokenizer trained here is named by its recipe: what it learns from is part of the corpus.
    """
    return f"{source.tokenizer_kind} {source.tokenizer}"


def open_tokenizer(
    source: DataSource, corpus: Corpus, *, on_read: Callable[[int], None]
) -> Tokenizer:
    """Load a source's tokenizer, or learn it from the corpus.

    Args:
        source: names the tokenizer.
        corpus: what to learn from, where there is something to learn.
        on_read: called with the number of bytes of each document read.

    Raises:
        DataError: `tokenizer-unknown` and others, when there is no such tokenizer.
    """
    return ByteTokenizer()


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer that was saved in a folder.

    Raises:
        DataError: `tokenizer-missing` when the folder holds none.
    """
    path = folder / RECORD_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(
            "tokenizer-missing",
            str(path),
            "a prepared corpus must hold its tokenizer, and there is none that can be read",
            "Remove the folder and prepare the corpus again",
        ) from error
    if record["kind"] == "byte":
        return ByteTokenizer()
    raise DataError(
        "tokenizer-unknown",
        str(path),
        f"the kind of a saved tokenizer must be byte; got {record['kind']!r}",
        "Prepare the corpus with this version",
    )
