"""Data sets of the Hugging Face hub, streamed through `datasets`; no code of theirs is ever run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trainer.data.documents import Document, is_held_out
from trainer.data.errors import DataError, did_you_mean
from trainer.data.files import open_files
from trainer.data.overlap import MAX_SHARED_ROWS, shared_fraction
from trainer.data.rows import column_missing, text_of
from trainer.data.source import DataSource

TRAIN_SPLIT = "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubCorpus:
    """Rows of a hub data set; a row is a document."""

    path: str
    """Data set (`owner/name`), or a builder of `datasets` such as `json`."""
    config: str | None
    """Configuration, where the data set has several."""
    text_column: str
    """Column of the text."""
    validation_split: str | None
    """Named split to validate on."""
    validation_files: DataSource | None
    """Local files to validate on."""
    seed: int
    """Seeds the split."""
    validation_fraction: float
    """Part of the rows held out when there is no validation of its own."""
    data_files: tuple[tuple[str, str], ...] = field(default=())
    """Split and file, for a builder."""

    @property
    def description(self) -> str:
        """Name and configuration."""
        return f"hub: {self.path}" + (f" ({self.config})" if self.config else "")

    @property
    def split(self) -> str:
        """How validation is chosen."""
        if self.validation_split is not None:
            return f"the data set's own split {self.validation_split}"
        if self.validation_files is not None:
            return "files of its own"
        return (
            f"{self.validation_fraction:.2%} of the rows of {TRAIN_SPLIT}, by hash of the content "
            f"(seed {self.seed})"
        )

    @property
    def entropy_rate(self) -> float | None:
        """Unknown for real text."""
        return None

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the splits used, as the hub states them."""
        sizes = self.split_bytes()
        wanted = [TRAIN_SPLIT] + ([self.validation_split] if self.validation_split else [])
        known = [sizes[name] for name in wanted if sizes.get(name)]
        return sum(known) if len(known) == len(wanted) else None

    def split_bytes(self) -> dict[str, int]:
        """Bytes of each split as the hub states them; empty when it does not."""
        splits: Any = self._builder().info.splits or {}
        return {name: int(split.num_bytes or 0) for name, split in splits.items()}

    def fingerprint(self) -> str:
        """SHA-256 of the data set's version and the settings."""
        builder = self._builder()
        files = self.validation_files
        settings = [
            ["hub", self.path, self.config, self.text_column, self.validation_split],
            [self.seed, self.validation_fraction, str(builder.hash), str(builder.config_id)],
            open_files(files).fingerprint() if files is not None else None,
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Rows of the training split, then of the validation text where it is its own."""
        own_validation = self.validation_split is not None or self.validation_files is not None
        run = 0
        for run, data in enumerate(self._rows(TRAIN_SPLIT), start=1):
            held_out = not own_validation and is_held_out(
                data, seed=self.seed, fraction=self.validation_fraction
            )
            yield Document(data=data, validation=held_out, run=run)
        yield from self._validation(after=run)

    def _validation(self, *, after: int) -> Iterator[Document]:
        """Documents of a validation text of its own."""
        if self.validation_split is not None:
            for run, data in enumerate(self._rows(self.validation_split), start=after + 1):
                yield Document(data=data, validation=True, run=run)
        elif self.validation_files is not None:
            yield from open_files(self.validation_files).whole(validation=True)

    def skipped_documents(self) -> int:
        """None: text that is not UTF-8 is an error."""
        return 0

    def shared_fraction(self) -> float | None:
        """Fraction of the validation rows, by bytes, that are training rows too.

        Raises:
            DataError: `validation-overlap` when it is too much to be chance.
        """
        if self.validation_split is None and self.validation_files is None:
            return None
        shared = shared_fraction(
            (Document(data=data, validation=False, run=0) for data in self._rows(TRAIN_SPLIT)),
            self._validation(after=0),
            whole=True,
        )
        if shared > MAX_SHARED_ROWS:
            raise DataError(
                "validation-overlap",
                self.description,
                f"training and validation must not share text; {shared:.1%} of the validation "
                f"rows (by bytes) are training rows too, the limit is {MAX_SHARED_ROWS:.0%}",
                "Leave validation out to hold out a part of the training split",
            )
        return shared

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"name": self.config}
        if self.data_files:
            files: dict[str, list[str]] = {}
            for split, path in self.data_files:
                files.setdefault(split, []).append(path)
            options["data_files"] = files
        return options

    def _builder(self) -> Any:
        """What knows the data set's version and sizes, without its rows.

        Raises:
            DataError: `corpus-unreachable`.
        """
        import datasets

        try:
            return datasets.load_dataset_builder(self.path, **self._options())
        # ValueError: an unknown configuration; OSError: not found, offline or refused.
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error

    def _rows(self, split: str) -> Iterator[bytes]:
        """Text of the rows of a split, streamed.

        Raises:
            DataError: `corpus-unreachable`, `split-missing`, `column-missing`, `column-type`.
        """
        import datasets

        try:
            every = datasets.load_dataset(self.path, streaming=True, **self._options())
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        if split not in every:
            names = ", ".join(sorted(every))
            raise DataError(
                "split-missing",
                self.description,
                f"the split {split!r} must be among those of the data set ({names})"
                + did_you_mean(split, list(every)),
                f"Write validation: split:NAME with one of: {names}",
            )
        for number, row in enumerate(every[split], start=1):
            place = f"{self.path}, split {split}, row {number}"
            if self.text_column not in row:
                raise column_missing(place, self.text_column, list(row))
            yield text_of(row[self.text_column], place=place, column=self.text_column)

    def _unreachable(self, error: Exception) -> DataError:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        return DataError(
            "corpus-unreachable",
            f"corpus {self.path}",
            "a name that reads owner/name must be a data set of the hub that can be reached, or "
            f"is cached, from here; got {type(error).__name__}: {reason}",
            "Correct the name, go online, or name a local file (write ./ before a relative path)",
        )


def open_hub(source: DataSource) -> HubCorpus:
    """Return the hub data set of a source; nothing is fetched yet."""
    name = source.hub
    files = None
    if source.validation is not None and source.hub_validation_split is None:
        files = DataSource(
            corpus=source.validation, text_column=source.text_column, seed=source.seed
        )
    return HubCorpus(
        path=name.name,
        config=name.config,
        text_column=source.text_column,
        validation_split=source.hub_validation_split,
        validation_files=files,
        seed=source.seed,
        validation_fraction=source.validation_fraction,
    )
