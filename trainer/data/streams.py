"""The content of one local file as a stream: decompressed, cut into parts or lines, never whole."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

from trainer.data.documents import check_utf8
from trainer.data.errors import DataError

FileKind = Literal["text", "jsonl", "parquet"]

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


def kind_of(path: Path) -> FileKind:
    """Kind of a file by its name, an ending of compression left aside."""
    name = path.name.lower()
    for ending in _COMPRESSION:
        name = name.removesuffix(ending)
    return _ROW_KINDS.get(Path(name).suffix, "text")


@contextmanager
def naming(path: Path) -> Iterator[None]:
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


def chunks(path: Path) -> Iterator[bytes]:
    """Content of a text file in chunks, decompressed.

    Raises:
        DataError: `file-type` when the content is packed and the ending does not say so,
            `file-unreadable` when it cannot be read.
    """
    with naming(path), closing(_open(path)) as file:
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


def parts(path: Path, *, part_bytes: int) -> Iterator[bytes]:
    """Cut running text into parts of at most `part_bytes`; a byte-order mark is left out.

    A part ends before the white space around its last line end, where byte-level BPE cuts too, so
    encoding part by part gives the tokens of the whole; without a line end it ends anywhere
    between two characters.
    """
    rest = b""
    offset = 0
    for chunk in chunks(path):
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


def stripped_lines(path: Path) -> Iterator[bytes]:
    """Stripped, non-empty lines of a text file."""
    for _, offset, line in numbered_lines(path):
        check_utf8(line, place=str(path), offset=offset)
        stripped = line.decode("utf-8").strip()
        if stripped:
            yield stripped.encode("utf-8")


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), byte offset and bytes of each line, without its line end."""
    rest = b""
    number = offset = 0
    for chunk in chunks(path):
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


def decompressed_head(head: bytes, ending: str) -> bytes:
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
