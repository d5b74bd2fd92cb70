"""Local files as a corpus: text, JSON lines and Parquet, plain or compressed, read as streams.

A row of JSON lines or Parquet is a document. Text is cut into parts at line ends: with fewer than
`WHOLE_FILES` text files one part of every 20 (at the default fraction) is held out, so that even a
single file has validation text from all over it; with more, whole files are.
"""

from __future__ import annotations

import bz2
import codecs
import functools
import glob
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from trainer.data.documents import Document, check_utf8, held_out_member, is_held_out
from trainer.data.errors import DataError, did_you_mean
from trainer.data.overlap import MAX_SHARED_LINES, MAX_SHARED_ROWS, shared_fraction
from trainer.data.source import DataSource

FileKind = Literal["text", "jsonl", "parquet"]

WHOLE_FILES = 200
"""From this many text files on, a file is held out whole: then 5 % of them are at least ten."""
PART_BYTES = (512, 1 << 16)
"""Least and greatest size of a part of a text file."""
PARTS = 200
"""Parts a small text corpus is cut into, within `PART_BYTES`."""
READ_BYTES = 1 << 20
"""Bytes read at once."""

_COMPRESSION = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "zstd"}
_ROW_KINDS: dict[str, FileKind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_MAGIC = (
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"\xfd7zXZ\x00", "xz", ".xz"),
    (b"BZh", "bzip2", ".bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"PAR1", "Parquet", ".parquet"),
    (b"PK\x03\x04", "zip", ""),
)


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
            return _json_rows(path, column=self.text_column)
        if kind == "parquet":
            return _parquet_rows(path, column=self.text_column)
        return _lines(path) if self.lines else _parts(path, part_bytes=part_bytes)

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


def kind_of(path: Path) -> FileKind:
    """Kind of a file by its name, an ending of compression left aside."""
    name = path.name.lower()
    for ending in _COMPRESSION:
        name = name.removesuffix(ending)
    return _ROW_KINDS.get(Path(name).suffix, "text")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; kept for this process as long as the file is not touched."""
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=65536)
def _file_sha256(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what a reader raises on a broken file into an error that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            "file-unreadable",
            str(path),
            f"the file must be readable as its ending says; got {type(error).__name__}: {error}",
            "Check that it is whole, that you may read it, and that its ending is right",
        ) from error


def _open(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed as its ending says."""
    ending = path.suffix.lower()
    if ending == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if ending == ".xz":
        return cast("BinaryIO", lzma.open(path, "rb"))
    if ending == ".bz2":
        return cast("BinaryIO", bz2.open(path, "rb"))
    if ending == ".zst":
        import pyarrow

        # pyarrow closes the file below when the stream above it is closed.
        stream = pyarrow.input_stream(str(path), compression="zstd")
        return cast("BinaryIO", stream)
    return path.open("rb")


def _chunks(path: Path) -> Iterator[bytes]:
    """Content of a text file in chunks, decompressed.

    Raises:
        DataError: `file-type` when the content is packed and the ending does not say so,
            `file-unreadable` when it cannot be read.
    """
    with _naming(path), closing(_open(path)) as file:
        first = True
        while chunk := file.read(READ_BYTES):
            if first:
                _check_not_packed(path, chunk)
                first = False
            yield chunk


def _check_not_packed(path: Path, head: bytes) -> None:
    """Refuse compressed or columnar content under a text file's name."""
    for magic, name, ending in _MAGIC:
        if head.startswith(magic):
            remedy = f"Name it {path.name}{ending}" if ending else "Unpack it"
            raise DataError(
                "file-type",
                str(path),
                f"its name says {kind_of(path)}, its content is {name}",
                remedy,
            )


def _parts(path: Path, *, part_bytes: int) -> Iterator[bytes]:
    """Cut running text into parts of at most `part_bytes`; a byte-order mark is left out.

    A part ends before the white space around its last line end, where byte-level BPE cuts too, so
    encoding part by part gives the tokens of the whole; without a line end it ends anywhere
    between two characters.
    """
    rest = b""
    offset = 0
    for chunk in _chunks(path):
        rest += chunk
        start = 0
        if offset == 0 and rest.startswith(codecs.BOM_UTF8):
            start = offset = len(codecs.BOM_UTF8)
        while len(rest) - start > part_bytes:
            end = start + _cut(rest[start : start + part_bytes])
            yield _checked(rest[start:end], path, offset)
            offset += end - start
            start = end
        rest = rest[start:]
    if rest:
        yield _checked(rest, path, offset)


def _checked(data: bytes, path: Path, offset: int) -> bytes:
    check_utf8(data, place=str(path), offset=offset)
    return data


def _cut(window: bytes) -> int:
    """Where the next part ends in a window of bytes: at least 1, at most its length."""
    newline = window.rfind(b"\n")
    end = len(window[: max(newline, 0)].rstrip())
    if end > 0:
        return end
    end = len(window)
    # Step back from inside a character of several bytes (at most three continuation bytes).
    for back in range(1, min(4, end)):
        lead = window[end - back]
        if lead & 0xC0 == 0x80:
            continue
        return end - back if lead >= 0xC0 and end > back else end
    return end


def _lines(path: Path) -> Iterator[bytes]:
    """Stripped, non-empty lines of a text file."""
    for _, offset, line in _raw_lines(path):
        check_utf8(line, place=str(path), offset=offset)
        stripped = line.decode("utf-8").strip()
        if stripped:
            yield stripped.encode("utf-8")


def _raw_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of each line, without its line end."""
    rest = b""
    number = offset = 0
    for chunk in _chunks(path):
        rest += chunk
        if offset == 0 and rest.startswith(codecs.BOM_UTF8):
            rest, offset = rest.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
        lines = rest.split(b"\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            yield number, offset, line
            offset += len(line) + 1
    if rest:
        yield number + 1, offset, rest


def _json_rows(path: Path, *, column: str) -> Iterator[bytes]:
    """Text of each row of a file of JSON lines.

    Raises:
        DataError: `file-type` when a line is no JSON object, `column-missing` without the column,
            `not-utf8`.
    """
    for number, offset, line in _raw_lines(path):
        place = f"{path}, line {number}"
        check_utf8(line, place=str(path), offset=offset)
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise DataError(
                "file-type",
                place,
                f"each line must be a JSON object; got {error}",
                "Write one JSON object per line, or give the file another ending",
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                "file-type",
                place,
                f"each line must be a JSON object; got {type(row).__name__}",
                "Write one JSON object per line",
            )
        if column not in row:
            raise column_missing(place, column, list(row))
        yield text_of(row[column], place=place, column=column)


def _parquet_rows(path: Path, *, column: str) -> Iterator[bytes]:
    """Text of each row of a Parquet file; only the text column is read, nothing is unpickled.

    Raises:
        DataError: `file-unreadable` for a broken file, `column-missing`, `column-type`.
    """
    import pyarrow
    import pyarrow.parquet

    with _naming(path):
        try:
            file = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowException as error:
            raise _broken_parquet(path, error) from error
        with file:
            schema = file.schema_arrow
            if column not in schema.names:
                raise column_missing(str(path), column, schema.names)
            kind = schema.field(column).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise DataError(
                    "column-type",
                    str(path),
                    f"the column {column!r} must hold strings; it holds {kind}",
                    "Name another text_column, or convert the column",
                )
            batches = file.iter_batches(batch_size=1024, columns=[column])
            row = 0
            while True:
                try:
                    batch = next(batches, None)
                except pyarrow.ArrowException as error:
                    raise _broken_parquet(path, error) from error
                if batch is None:
                    return
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield text_of(value, place=f"{path}, row {row}", column=column)


def _broken_parquet(path: Path, error: Exception) -> DataError:
    return DataError(
        "file-unreadable",
        str(path),
        f"the file must be Parquet, as its ending says; got {type(error).__name__}: {error}",
        "Check that the file is whole and that its ending is right",
    )


def column_missing(place: str, column: str, columns: list[str]) -> DataError:
    """Error for rows without the text column; lists the columns there are."""
    listed = ", ".join(columns) if columns else "none"
    return DataError(
        "column-missing",
        place,
        f"the text column {column!r} must be among the columns ({listed})"
        + did_you_mean(column, columns, cutoff=0.5),
        f"Set text_column to one of: {listed}",
    )


def text_of(value: object, *, place: str, column: str) -> bytes:
    """UTF-8 bytes of one row's text.

    Raises:
        DataError: `column-type` when it is no string, `not-utf8` when it holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise DataError(
            "column-type",
            place,
            f"the column {column!r} must hold strings; got {type(value).__name__}",
            "Name another text_column, or drop the rows without text",
        )
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "not-utf8",
            place,
            f"text must be Unicode; character {error.start} is half of a surrogate pair",
            "Repair the text where it was written",
        ) from error


def expanded_bytes(paths: Iterable[Path], *, column: str) -> int:
    """Estimate the bytes of text in files, from the head of the largest of each ending."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault("".join(path.suffixes[-2:]).lower(), []).append(path)
    total = 0.0
    for files in groups.values():
        size = sum(path.stat().st_size for path in files)
        largest = max(files, key=lambda path: path.stat().st_size)
        total += size * _expansion(largest, column=column)
    return int(total)


def _expansion(path: Path, *, column: str) -> float:
    """Bytes of text per byte on disk, from the first MiB (Parquet: from its metadata)."""
    size = max(1, path.stat().st_size)
    if kind_of(path) == "parquet":
        return _parquet_column_bytes(path, column=column) / size
    with _naming(path):
        with path.open("rb") as raw:
            head = raw.read(READ_BYTES)
        content = _decompress_head(head, path.suffix.lower())
    expansion = len(content) / max(1, len(head))
    if kind_of(path) == "jsonl":
        # The last line of the head may be cut.
        lines = content.split(b"\n")[:-1] or [content]
        rows = [json.loads(line) for line in lines if line.strip()]
        text = sum(len(row[column].encode()) for row in rows if column in row)
        expansion *= text / max(1, sum(len(line) + 1 for line in lines))
    return expansion


def _parquet_column_bytes(path: Path, *, column: str) -> int:
    """Uncompressed bytes of one column, from the file's metadata."""
    import pyarrow
    import pyarrow.parquet

    with _naming(path):
        try:
            metadata = pyarrow.parquet.read_metadata(path)
        except pyarrow.ArrowException as error:
            raise _broken_parquet(path, error) from error
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if column not in names:
        raise column_missing(str(path), column, names)
    index = names.index(column)
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return sum(group.column(index).total_uncompressed_size for group in groups)


def _decompress_head(head: bytes, ending: str) -> bytes:
    """Decompress the beginning of a stream."""
    if ending == ".gz":
        return zlib.decompressobj(wbits=31).decompress(head)
    if ending == ".xz":
        return lzma.LZMADecompressor().decompress(head)
    if ending == ".bz2":
        return bz2.BZ2Decompressor().decompress(head)
    if ending == ".zst":
        # Text packs to about a third; only an estimate rests on it.
        return head * 3
    return head
