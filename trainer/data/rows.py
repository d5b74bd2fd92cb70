"""Documents that are rows: JSON lines and Parquet files, and how much text they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trainer.data.documents import check_utf8
from trainer.data.errors import DataError, did_you_mean
from trainer.data.streams import (
    READ_BYTES,
    decompressed_head,
    kind_of,
    naming,
    numbered_lines,
)


def json_rows(path: Path, *, column: str) -> Iterator[bytes]:
    """Text of each row of a file of JSON lines.

    Raises:
        DataError: `file-type` when a line is no JSON object, `column-missing` without the column,
            `not-utf8`.
    """
    for number, offset, line in numbered_lines(path):
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


def parquet_rows(path: Path, *, column: str) -> Iterator[bytes]:
    """Text of each row of a Parquet file; only the text column is read, nothing is unpickled.

    Raises:
        DataError: `file-unreadable` for a broken file, `column-missing`, `column-type`.
    """
    import pyarrow
    import pyarrow.parquet

    with naming(path):
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
    with naming(path):
        with path.open("rb") as raw:
            head = raw.read(READ_BYTES)
        content = decompressed_head(head, path.suffix.lower())
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

    with naming(path):
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
