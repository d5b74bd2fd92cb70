"""`Document`: a piece of UTF-8 text with its split, and the rule that chooses the split.

A document goes to training or validation whole. Text files are read as runs of parts: parts of one
run that follow each other continue each other, and nothing stands between their tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from trainer.data.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A piece of text that goes to one split."""

    data: bytes
    """UTF-8 text, checked."""
    validation: bool
    """Whether it is held out."""
    run: int
    """Number of the file or row it is from."""
    part: int = 0
    """Place in its run: part k+1 continues part k."""


class Corpus(Protocol):
    """Text with a split; reading it twice gives the same documents."""

    @property
    def description(self) -> str:
        """What the text is, for a person."""

    @property
    def split(self) -> str:
        """How validation is chosen, for a person."""

    @property
    def entropy_rate(self) -> float | None:
        """Exact irreducible loss, nats per character, where it is known."""

    @property
    def size_bytes(self) -> int | None:
        """Bytes to be read, for a progress bar; None when unknown."""

    def skipped_documents(self) -> int:
        """Files left out because they are not UTF-8; only the embedded corpus leaves any out."""

    def shared_fraction(self) -> float | None:
        """Fraction of validation text of its own that is in training too; None: split here.

        Raises:
            DataError: `validation-overlap` when it is too much to be chance.
        """

    def fingerprint(self) -> str:
        """SHA-256 of the content and of every setting that changes the documents."""

    def documents(self) -> Iterator[Document]:
        """Every document of both splits, in order."""


def is_held_out(key: bytes, *, seed: int, fraction: float) -> bool:
    """Choose a document for validation by the hash of its key.

    The choice depends on nothing but key, seed and fraction, so a corpus that grows keeps its
    split, and equal keys fall on the same side.
    """
    digest = hashlib.blake2b(key, digest_size=8, salt=_salt(seed)).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def held_out_member(group: int, *, seed: int, size: int) -> int:
    """Choose which of the `size` members of a group of consecutive parts is held out."""
    digest = hashlib.blake2b(str(group).encode(), digest_size=8, salt=_salt(seed)).digest()
    return int.from_bytes(digest, "big") % size


def _salt(seed: int) -> bytes:
    return hashlib.blake2b(str(seed).encode(), digest_size=16).digest()


def with_boundaries(documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
    """Yield each document and whether it begins anew, that is: a separator belongs before it.

    The first document of a split begins nothing: separators stand between documents only, so that
    a file alone gives exactly its own tokens.
    """
    last: dict[bool, Document] = {}
    for document in documents:
        before = last.get(document.validation)
        continued = (
            before is not None and before.run == document.run and document.part == before.part + 1
        )
        yield document, before is not None and not continued
        last[document.validation] = document


def check_utf8(data: bytes, *, place: str, offset: int = 0) -> None:
    """Refuse bytes that are not UTF-8.

    Args:
        data: bytes to check.
        place: file they come from.
        offset: where `data` begins in that file, bytes.

    Raises:
        DataError: `not-utf8` with the byte offset in the file.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "not-utf8",
            f"{place}, byte {offset + error.start}",
            f"text must be UTF-8; got the byte 0x{data[error.start]:02x} ({error.reason})",
            "Convert the file to UTF-8, for example with iconv -f ENCODING -t UTF-8",
        ) from error
