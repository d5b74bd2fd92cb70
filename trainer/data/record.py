"""The interface of tokenizers, and the small file that says which one a folder holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.data.errors import DataError

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


def write_record(folder: Path, record: dict[str, object]) -> None:
    """Write the record of a saved tokenizer."""
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of a saved tokenizer.

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
    return dict(record)
