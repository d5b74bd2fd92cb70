"""Local files as a corpus: text, JSON lines and Parquet, plain or compressed, read as streams.

A row of JSON lines or Parquet is a document. Text is cut into parts at line ends: with fewer than
`WHOLE_FILES` text files one part of every 20 (at the default fraction) is held out, so that even a
single file has validation text from all over it; with more, whole files are.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.documents import Document, held_out_member, is_held_out
from trainer.data.errors import DataError, did_you_mean
from trainer.data.overlap import MAX_SHARED_LINES, MAX_SHARED_ROWS, shared_fraction
from trainer.data.rows import json_rows, parquet_rows
from trainer.data.source import DataSource
from trainer.data.streams import kind_of, parts, stripped_lines

WHOLE_FILES = 200
"""From this many text files on, a file is held out whole: then 5 % of them are at least ten."""
PART_BYTES = (512, 1 << 16)
"""Least and greatest size of a part of a text file."""
PARTS = 200
"""Parts a small text corpus is cut into, within `PART_BYTES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCorpus:
    """Documents of local files."""

    train: tuple[Path, ...]
    """Files of the corpus."""
    validation: tuple[Path, ...]
    """Held-out files; none: a part of `train` is held out."""
    text_column: str
    """Column of the text in rows."""
    lines: bool
    """Whether each stripped line of a text file is a document."""
    seed: int
    """Seeds the split."""
    validation_fraction: float
    """Part held out when there are no held-out files."""

    @property
    def description(self) -> str:
        """Names of the files."""
        text = "files: " + _names(self.train)
        return text + (f"; validation {_names(self.validation)}" if self.validation else "")

    @property
    def split(self) -> str:
        """How validation is chosen."""
        if self.validation:
            return "files of its own"
        seed = f"(seed {self.seed})"
        if self._split_by_part:
            return f"one part of every {self._group} of the text, by hash of its group {seed}"
        return f"{self.validation_fraction:.2%} of the documents, by hash of the content {seed}"

    @property
    def entropy_rate(self) -> float | None:
        """Unknown for real text."""
        return None

    @property
    def size_bytes(self) -> int:
        """Sizes of the files as they lie on disk."""
        return sum(path.stat().st_size for path in self.train + self.validation)

    @property
    def _group(self) -> int:
        return round(1 / self.validation_fraction)

    @property
    def _rows(self) -> bool:
        """Whether documents are rows or lines, not running text."""
        return self.lines or any(kind_of(path) != "text" for path in self.train)

    @property
    def _split_by_part(self) -> bool:
        return not self._rows and len(self.train) < WHOLE_FILES

    def fingerprint(self) -> str:
        """SHA-256 over the files' contents and the settings; their names do not matter."""
        settings = [
            [[kind_of(path), file_sha256(path)] for path in files]
            for files in (self.train, self.validation)
        ]
        text = [settings, self.text_column, self.lines, self.seed, self.validation_fraction]
        return hashlib.sha256(json.dumps(["files", *text]).encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Every document, the held-out files last."""
        if self.validation:
            yield from self._given(self.train, validation=False)
            yield from self._given(self.validation, validation=True)
        elif self._split_by_part:
            yield from self._by_part()
        else:
            yield from self._by_hash()

    def whole(self, *, validation: bool) -> Iterator[Document]:
        """Every document of the corpus's files in one split."""
        return self._given(self.train, validation=validation)

    def skipped_documents(self) -> int:
        """None: text that is not UTF-8 is an error."""
        return 0

    def shared_fraction(self) -> float | None:
        """Fraction of the held-out files' text that is also in the training files.

        Raises:
            DataError: `validation-overlap` when it is too much to be chance.
        """
        if not self.validation:
            return None
        shared = shared_fraction(
            self._given(self.train, validation=False),
            self._given(self.validation, validation=True),
            whole=self._rows,
        )
        limit = MAX_SHARED_ROWS if self._rows else MAX_SHARED_LINES
        if shared > limit:
            what = "documents" if self._rows else "lines of 32 bytes or more"
            raise DataError(
                "validation-overlap",
                _names(self.validation),
                f"training and validation must not share text; {shared:.1%} of the validation's "
                f"{what} (by bytes) are in {_names(self.train)} too, the limit is {limit:.0%}",
                "Take them out of one of the two, or leave validation out to hold out a part",
            )
        return shared

    def _part_bytes(self, files: tuple[Path, ...]) -> int:
        least, greatest = PART_BYTES
        total = sum(path.stat().st_size for path in files)
        return min(max(total // PARTS, least), greatest)

    def _pieces(self, path: Path, *, part_bytes: int) -> Iterator[bytes]:
        """Documents or parts of one file."""
        kind = kind_of(path)
        if kind == "jsonl":
            return json_rows(path, column=self.text_column)
        if kind == "parquet":
            return parquet_rows(path, column=self.text_column)
        return stripped_lines(path) if self.lines else parts(path, part_bytes=part_bytes)

    def _continues(self, path: Path) -> bool:
        """Whether pieces of a file continue each other."""
        return kind_of(path) == "text" and not self.lines

    def _given(self, files: tuple[Path, ...], *, validation: bool) -> Iterator[Document]:
        """Documents of files whose split is given."""
        part_bytes = self._part_bytes(files)
        run = 0
        for path in files:
            run += 1
            for part, data in enumerate(self._pieces(path, part_bytes=part_bytes)):
                if not self._continues(path):
                    run, part = run + 1, 0
                yield Document(data=data, validation=validation, run=run, part=part)

    def _by_part(self) -> Iterator[Document]:
        """Text files: one part of every group of consecutive parts is held out."""
        part_bytes = self._part_bytes(self.train)
        size = self._group
        count = 0
        for run, path in enumerate(self.train):
            for part, data in enumerate(self._pieces(path, part_bytes=part_bytes)):
                group, member = divmod(count, size)
                held_out = member == held_out_member(group, seed=self.seed, size=size)
                count += 1
                yield Document(data=data, validation=held_out, run=run, part=part)

    def _by_hash(self) -> Iterator[Document]:
        """Rows, lines or many files: split by the hash of the content."""
        part_bytes = self._part_bytes(self.train)
        run = 0
        for path in self.train:
            run += 1
            continues = self._continues(path)
            key = file_sha256(path).encode() if continues else b""
            for part, data in enumerate(self._pieces(path, part_bytes=part_bytes)):
                if not continues:
                    run, part, key = run + 1, 0, data
                held_out = is_held_out(key, seed=self.seed, fraction=self.validation_fraction)
                yield Document(data=data, validation=held_out, run=run, part=part)


def open_files(source: DataSource) -> FileCorpus:
    """Find the files of a source.

    Raises:
        DataError: `corpus-missing` for a path that is not there, `validation-overlap` when a file
            (or a copy of it) is both trained and validated on.
    """
    train = _find_all(source.corpora, place="corpus")
    validation = _find_all((source.validation,), place="validation") if source.validation else ()
    _check_files_differ(train, validation)
    return FileCorpus(
        train=train,
        validation=validation,
        text_column=source.text_column,
        lines=source.document == "line",
        seed=source.seed,
        validation_fraction=source.validation_fraction,
    )


def _names(files: tuple[Path, ...]) -> str:
    """Readable list of at most three files."""
    names = ", ".join(path.name for path in files[:3])
    return names + (f" and {len(files) - 3:,} more" if len(files) > 3 else "")


def _find_all(patterns: Iterable[str], *, place: str) -> tuple[Path, ...]:
    """Files that paths, folders and glob patterns name; each once, in order."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        for path in _find(pattern, place=place):
            found[path] = None
    return tuple(found)


def _find(pattern: str, *, place: str) -> list[Path]:
    """Files that one path, folder or glob pattern names."""
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        what = "a folder must hold at least one file that is not hidden"
    else:
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if file.is_file()]
        what = "the path must name a file, a folder or a glob pattern that matches files"
    if not files:
        resolved = path.absolute()
        raise DataError(
            "corpus-missing",
            place,
            f"{what}; there is nothing at {resolved}{_near_path(resolved)}",
            "Correct the path, or write hub:owner/name for a data set of the hub",
        )
    return [file.resolve() for file in files]


def _near_path(path: Path) -> str:
    """Say which folder is missing, or which neighbour has a similar name."""
    parent = path.parent
    if not parent.is_dir():
        while not parent.parent.is_dir():
            parent = parent.parent
        return f" (the folder {parent} does not exist)"
    return did_you_mean(path.name, sorted(entry.name for entry in parent.iterdir()))


def _check_files_differ(train: tuple[Path, ...], validation: tuple[Path, ...]) -> None:
    """Refuse a file that is in both splits, under whatever name."""
    by_size: dict[int, list[Path]] = {}
    for path in train:
        by_size.setdefault(path.stat().st_size, []).append(path)
    for path in validation:
        for other in by_size.get(path.stat().st_size, []):
            if file_sha256(other) == file_sha256(path):
                raise DataError(
                    "validation-overlap",
                    str(path),
                    f"training and validation must not share text; it is the same as {other}",
                    "Name another file, or leave validation out to hold out a part of the corpus",
                )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; kept for this process as long as the file is not touched."""
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=65536)
def _file_sha256(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
