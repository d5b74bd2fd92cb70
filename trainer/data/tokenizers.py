"""Tokenizers: bytes of UTF-8 text to arrays of token ids, and back.

`open_tokenizer` loads or learns the one that a source names. A tokenizer is saved beside the token
files it made, so that a model's output can be read without the source: `load_tokenizer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.documents import Corpus
from trainer.data.errors import DataError
from trainer.data.record import TokenArray, Tokenizer, read_record, write_record
from trainer.data.source import DataSource

__all__ = [
    "ByteTokenizer",
    "CharTokenizer",
    "TokenArray",
    "Tokenizer",
    "load_tokenizer",
    "open_tokenizer",
    "tokenizer_identity",
]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CharTokenizer:
    """A token is a character of the corpus: ids are places in the sorted set of characters.

    There is no separator and no unknown token, so that the vocabulary is the text's own and the
    loss is that of the text: a character outside the vocabulary is an error. When a part of the
    corpus is held out, the set is that of the whole corpus; a validation file of its own must not
    bring new characters.
    """

    characters: str
    """The vocabulary, sorted by code point."""

    @property
    def name(self) -> str:
        """Always `char`."""
        return "char"

    @property
    def vocab_size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    @property
    def separator(self) -> None:
        """None: every id is a character of the text."""
        return None

    @property
    def digest(self) -> str:
        """SHA-256 of the characters."""
        return hashlib.sha256(b"char: " + self.characters.encode("utf-8")).hexdigest()

    def encode(self, texts: Sequence[bytes], /) -> list[TokenArray]:
        """Places of the characters of each text, uint32.

        Raises:
            DataError: `character-unknown`, naming the first such character and its place.
        """
        known = _code_points(self.characters)
        return [self._encode(text.decode("utf-8"), known) for text in texts]

    def _encode(self, text: str, known: TokenArray) -> TokenArray:
        points = _code_points(text)
        places = np.minimum(np.searchsorted(known, points), known.size - 1)
        unknown = np.flatnonzero(known[places] != points)
        if unknown.size:
            at = int(unknown[0])
            raise DataError(
                "character-unknown",
                f"text {text[max(0, at - 20) : at + 20]!r}",
                f"every character must be among the {known.size} of the vocabulary; got "
                f"{text[at]!r} (U+{ord(text[at]):04X})",
                "Use the byte tokenizer, or leave validation out to hold out a part of the corpus",
            )
        return places.astype(np.uint32)

    def decode(self, tokens: Sequence[int], /) -> bytes:
        """Join the characters."""
        return "".join(self.characters[token] for token in tokens).encode("utf-8")

    def save(self, folder: Path, /) -> None:
        """Write the characters."""
        write_record(folder, {"kind": "char", "characters": self.characters})


def _code_points(text: str) -> TokenArray:
    """Code points of a text, uint32, shape (characters,)."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def tokenizer_identity(source: DataSource) -> str:
    """Name of the tokenizer that tells apart all that could give other tokens.

    A tokenizer trained here is named by its recipe: what it learns from is part of the corpus.
    """
    if source.tokenizer_kind == "hf":
        from trainer.data.backend import hf_identity

        return f"hf {hf_identity(source.tokenizer)}"
    return source.tokenizer


def open_tokenizer(
    source: DataSource, corpus: Corpus, *, on_read: Callable[[int], None]
) -> Tokenizer:
    """Load a source's tokenizer, or learn it from the corpus.

    Args:
        source: names the tokenizer.
        corpus: what to learn from, where there is something to learn.
        on_read: called with the number of bytes of each document read.

    Raises:
        DataError: when there is no such tokenizer or it cannot be learnt.
    """
    kind = source.tokenizer_kind
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return _learn_characters(_read(corpus, on_read, train_only=bool(source.validation)))
    from trainer.data import backend

    if kind == "bpe":
        texts = _read(corpus, on_read, train_only=True)
        return backend.train_bpe(texts, size=source.bpe_size, place=corpus.description)
    return backend.open_hf(source.tokenizer)


def _read(corpus: Corpus, on_read: Callable[[int], None], *, train_only: bool) -> Iterator[bytes]:
    """Text to learn from."""
    for document in corpus.documents():
        on_read(len(document.data))
        if not (train_only and document.validation):
            yield document.data


def _learn_characters(texts: Iterator[bytes]) -> CharTokenizer:
    characters: set[str] = set()
    for text in texts:
        characters.update(text.decode("utf-8"))
    return CharTokenizer(characters="".join(sorted(characters)))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer that was saved in a folder.

    Raises:
        DataError: `tokenizer-missing` when the folder holds none, `tokenizer-unknown` when it is
            of a kind that this version does not know.
    """
    record = read_record(folder)
    kind = record.get("kind")
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer(characters=record["characters"])
    if kind == "backend":
        from trainer.data.backend import load_saved

        return load_saved(folder, record)
    raise DataError(
        "tokenizer-unknown",
        str(folder),
        f"the kind of a saved tokenizer must be byte, char or backend; got {kind!r}",
        "Prepare the corpus with this version",
    )
