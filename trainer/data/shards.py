"""Token files: text is tokenised once into `train.bin` and `validation.bin` and mapped from there.

A prepared folder holds `manifest.json`, the two token files (little-endian uint16 or uint32, no
header) and `tokenizer/`. Its name in the cache is a hash of content, tokenizer and split rule. It
is written in a temporary sibling and renamed, under a lock: a folder so named is always whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from trainer.data.corpora import open_corpus
from trainer.data.documents import Corpus, Document, with_boundaries
from trainer.data.errors import DataError
from trainer.data.manifest import (
    MANIFEST_NAME,
    DataManifest,
    SplitCounts,
    digest_of,
    dtype_for,
)
from trainer.data.source import DataSource
from trainer.data.statistics import TokenStatistics
from trainer.data.tokenizers import (
    Tokenizer,
    load_tokenizer,
    open_tokenizer,
    tokenizer_identity,
)

__all__ = ["DataManifest", "Progress", "TokenData", "cache_key", "find_prepared", "prepare"]

PREPARE_VERSION = 1
"""Raised whenever the same source would give other tokens."""
TRAIN_NAME = "train.bin"
VALIDATION_NAME = "validation.bin"
TOKENIZER_FOLDER = "tokenizer"
PIECE_BYTES = 1 << 16
"""Parts of one run are joined up to this size before they are encoded."""
BATCH_BYTES = 1 << 22
"""Text encoded and written at once: the bound on memory, with `PIECE_BYTES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a preparation is."""

    stage: str
    """What is being done."""
    bytes_done: int
    """Bytes of text read in this stage."""
    bytes_total: int | None
    """Bytes of text in all, about (compressed files count as they lie); None when unknown."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenData:
    """A prepared corpus: its manifest and its tokens, mapped read-only."""

    data_dir: Path
    """The prepared folder."""
    manifest: DataManifest
    """What the files hold."""
    train: np.memmap
    """Training tokens, shape (train_tokens,)."""
    validation: np.memmap
    """Validation tokens, shape (validation_tokens,)."""

    @classmethod
    def open(cls, data_dir: Path) -> TokenData:
        """Map a prepared folder.

        Raises:
            DataError: `tokens-missing` or `tokens-damaged`, naming the file, when a token file is
                absent or its size is not the manifest's; `manifest-damaged` likewise.
        """
        manifest = DataManifest.read(data_dir)
        return cls(
            data_dir=data_dir,
            manifest=manifest,
            train=_map_tokens(
                data_dir / TRAIN_NAME, dtype=manifest.dtype, tokens=manifest.train_tokens
            ),
            validation=_map_tokens(
                data_dir / VALIDATION_NAME,
                dtype=manifest.dtype,
                tokens=manifest.validation_tokens,
            ),
        )

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer that made these tokens."""
        return load_tokenizer(self.data_dir / TOKENIZER_FOLDER)

    def validation_bytes(self, tokens: int) -> int:
        """Bytes of the text of the first `tokens` validation tokens, a separator being one byte.

        Exact but for a character that is cut at the end (three bytes at most). Turns a loss over
        those tokens into bits per byte: loss * tokens / (bytes * ln 2).
        """
        head = np.asarray(self.validation[:tokens])
        is_text = np.ones(head.size, dtype=bool)
        if self.manifest.separator is not None:
            is_text = head != self.manifest.separator
        text = self.tokenizer().decode(head[is_text].tolist())
        return len(text) + int(np.count_nonzero(~is_text))

    def verify(self) -> None:
        """Read both files through and compare their hashes with the manifest's.

        Raises:
            DataError: `tokens-damaged`, naming the file.
        """
        for name, tokens, expected in (
            (TRAIN_NAME, self.train, self.manifest.train_sha256),
            (VALIDATION_NAME, self.validation, self.manifest.validation_sha256),
        ):
            digest = hashlib.sha256()
            for start in range(0, tokens.size, BATCH_BYTES):
                digest.update(tokens[start : start + BATCH_BYTES].tobytes())
            if digest.hexdigest() != expected:
                raise DataError(
                    "tokens-damaged",
                    str(self.data_dir / name),
                    f"its SHA-256 must be {expected}; got {digest.hexdigest()}",
                    "Remove the folder and prepare the corpus again",
                )


def _map_tokens(path: Path, *, dtype: str, tokens: int) -> np.memmap:
    """Map one token file after checking its size."""
    stored = np.dtype(dtype).newbyteorder("<")
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(
            "tokens-missing",
            str(path),
            "the manifest names this token file, and it is not there",
            "Remove the folder and prepare the corpus again",
        ) from error
    if size != tokens * stored.itemsize:
        raise DataError(
            "tokens-damaged",
            str(path),
            f"{tokens:,} tokens of {dtype} must take {tokens * stored.itemsize:,} bytes; the file "
            f"has {size:,}",
            "Remove the folder and prepare the corpus again",
        )
    return np.memmap(path, dtype=stored, mode="r", shape=(tokens,))


def cache_key(source: DataSource, *, fingerprint: str) -> str:
    """Name of the prepared folder: hash of content, split rule, tokenizer and file format."""
    parts = [
        str(PREPARE_VERSION),
        fingerprint,
        tokenizer_identity(source),
        source.separator,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def find_prepared(source: DataSource, *, cache_root: Path) -> Path | None:
    """Folder of a source that is already prepared, or None."""
    fingerprint = open_corpus(source).fingerprint()
    folder = cache_root / cache_key(source, fingerprint=fingerprint)
    return folder if (folder / MANIFEST_NAME).is_file() else None


def prepare(source: DataSource, *, cache_root: Path, on_progress: OnProgress | None = None) -> Path:
    """Tokenise a source into the cache, unless it is there already.

    Memory stays bounded however large the corpus is. Several processes may prepare the same source
    at once: one does the work, the others wait for it. A process that dies leaves a temporary
    folder that nobody takes for a prepared one; the next to prepare the source removes it.

    Args:
        source: what to tokenise.
        cache_root: folder of prepared corpora; made if it is not there.
        on_progress: called now and then.

    Returns:
        The prepared folder, for `TokenData.open`.

    Raises:
        DataError: when the source breaks a rule.
        OSError: when the cache cannot be written.
    """
    corpus = open_corpus(source)
    fingerprint = corpus.fingerprint()
    key = cache_key(source, fingerprint=fingerprint)
    folder = cache_root / key
    if folder.exists():
        TokenData.open(folder)
        return folder
    cache_root.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_root / f".{key}.lock"):
        if folder.exists():
            return folder
        partial = cache_root / f".{key}.partial"
        # Nobody else writes while we hold the lock: whatever lies here is a dead process's.
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            _write(source, corpus, folder=partial, fingerprint=fingerprint, on_progress=on_progress)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync_folder(cache_root)
    return folder


def _write(
    source: DataSource,
    corpus: Corpus,
    *,
    folder: Path,
    fingerprint: str,
    on_progress: OnProgress | None,
) -> None:
    """Tokenise a corpus into an empty folder; `fingerprint`: of the corpus before."""
    shared_fraction = corpus.shared_fraction()
    report = _Reporter(corpus.size_bytes, on_progress)
    tokenizer = open_tokenizer(source, corpus, on_read=report.stage("learning the tokenizer"))
    separator = tokenizer.separator if source.separator == "auto" else None
    dtype = dtype_for(tokenizer.vocab_size)
    on_read = report.stage("tokenising")
    with (
        (folder / TRAIN_NAME).open("wb") as train_file,
        (folder / VALIDATION_NAME).open("wb") as validation_file,
    ):
        train = _SplitWriter(train_file, tokenizer, dtype=dtype, separator=separator)
        validation = _SplitWriter(validation_file, tokenizer, dtype=dtype, separator=separator)
        for document, begins in with_boundaries(corpus.documents()):
            split = validation if document.validation else train
            split.add(document, begins=begins)
            on_read(len(document.data))
        counts = (train.close(), validation.close())
    report.finish()
    check_not_empty(corpus, train_tokens=counts[0].tokens, validation_tokens=counts[1].tokens)
    if corpus.fingerprint() != fingerprint:
        raise DataError(
            "corpus-changed",
            corpus.description,
            "the corpus must stay as it is while it is tokenised, and it changed",
            "Prepare it again when nobody writes to it",
        )
    tokenizer_folder = folder / TOKENIZER_FOLDER
    tokenizer_folder.mkdir()
    tokenizer.save(tokenizer_folder)
    manifest = _manifest(
        corpus,
        tokenizer,
        counts,
        fingerprint=fingerprint,
        separator=separator,
        shared_fraction=shared_fraction,
    )
    _write_synced(folder / MANIFEST_NAME, manifest.to_json())
    _sync_folder(folder)


def _manifest(
    corpus: Corpus,
    tokenizer: Tokenizer,
    counts: tuple[SplitCounts, SplitCounts],
    *,
    fingerprint: str,
    separator: int | None,
    shared_fraction: float | None,
) -> DataManifest:
    """Join the counts of both splits into the record."""
    train, validation = counts
    per_split = {
        f"{split}_{name}": value
        for split, record in (("train", train), ("validation", validation))
        for name, value in dataclasses.asdict(record).items()
        if name != "statistics_tokens"
    }
    return DataManifest(
        digest=digest_of(
            train_sha256=train.sha256,
            validation_sha256=validation.sha256,
            tokenizer_digest=tokenizer.digest,
            vocab_size=tokenizer.vocab_size,
        ),
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=train.bytes / train.tokens,
        dtype=dtype_for(tokenizer.vocab_size),
        tokenizer=tokenizer.name,
        tokenizer_digest=tokenizer.digest,
        separator=separator,
        source=corpus.description,
        source_digest=fingerprint,
        split=corpus.split,
        statistics_tokens=train.statistics_tokens,
        entropy_rate=corpus.entropy_rate,
        skipped_documents=corpus.skipped_documents(),
        shared_fraction=shared_fraction,
        **per_split,
    )


def check_not_empty(corpus: Corpus, *, train_tokens: int, validation_tokens: int) -> None:
    """Refuse a corpus that leaves a split without a token.

    Raises:
        DataError: `corpus-empty` or `validation-empty`.
    """
    if train_tokens == 0:
        raise DataError(
            "corpus-empty",
            corpus.description,
            "the training split must hold text; it is empty",
            "Name a corpus with text in it",
        )
    if validation_tokens == 0:
        raise DataError(
            "validation-empty",
            corpus.description,
            f"the validation split must hold text; it is empty ({corpus.split})",
            "Name a longer corpus, raise validation_fraction, change seed, or name a validation "
            "file",
        )


class _SplitWriter:
    """Encodes the documents of one split in batches and writes, hashes and counts their tokens."""

    def __init__(
        self, file: BinaryIO, tokenizer: Tokenizer, *, dtype: str, separator: int | None
    ) -> None:
        self._file = file
        self._tokenizer = tokenizer
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._separator = separator
        self._pieces: list[list[bytes]] = []
        self._separated: list[bool] = []
        self._piece_bytes = 0
        self._batch_bytes = 0
        self._sha256 = hashlib.sha256()
        self._statistics = TokenStatistics(vocab_size=tokenizer.vocab_size)
        self._bytes = self._words = self._documents = 0

    def add(self, document: Document, *, begins: bool) -> None:
        """Take the next document; `begins`: it does not continue the one before."""
        if begins or not self._pieces or self._piece_bytes >= PIECE_BYTES:
            self._pieces.append([])
            self._separated.append(begins and self._separator is not None)
            self._piece_bytes = 0
        self._pieces[-1].append(document.data)
        self._piece_bytes += len(document.data)
        self._batch_bytes += len(document.data)
        self._documents += 1
        if self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Encode, write and count what has been taken so far."""
        texts = [b"".join(piece) for piece in self._pieces]
        arrays: list[npt.NDArray[np.unsignedinteger]] = []
        mark = np.array([self._separator or 0], dtype=self._dtype)
        for encoded, separated in zip(self._tokenizer.encode(texts), self._separated, strict=True):
            if separated:
                arrays.append(mark)
            arrays.append(encoded)
        tokens = np.concatenate(arrays).astype(self._dtype) if arrays else np.empty(0, self._dtype)
        data = tokens.tobytes()
        self._file.write(data)
        self._sha256.update(data)
        self._statistics.add(tokens)
        self._bytes += sum(map(len, texts)) + sum(self._separated)
        self._words += sum(len(text.split()) for text in texts)
        self._pieces, self._separated = [], []
        self._piece_bytes = self._batch_bytes = 0

    def close(self) -> SplitCounts:
        """Write what is left, force it to disk and return the counts."""
        self._flush()
        self._file.flush()
        os.fsync(self._file.fileno())
        return SplitCounts(
            tokens=self._statistics.tokens,
            bytes=self._bytes,
            words=self._words,
            documents=self._documents,
            distinct_tokens=self._statistics.distinct_tokens,
            unigram_entropy=self._statistics.unigram_entropy,
            bigram_entropy=self._statistics.bigram_entropy,
            statistics_tokens=self._statistics.statistics_tokens,
            sha256=self._sha256.hexdigest(),
        )


class _Reporter:
    """Turns bytes read into calls of `on_progress`, one per `BATCH_BYTES`."""

    def __init__(self, total: int | None, on_progress: OnProgress | None) -> None:
        self._total = total
        self._on_progress = on_progress
        self._stage = ""
        self._done = 0

    def stage(self, name: str) -> Callable[[int], None]:
        """Return the function to call with the bytes just read."""

        def on_read(size: int) -> None:
            if self._stage != name:
                self._stage, self._done = name, 0
            before = self._done // BATCH_BYTES
            self._done += size
            if self._done // BATCH_BYTES != before:
                self.finish()

        return on_read

    def finish(self) -> None:
        """Report where the stage stands."""
        if self._on_progress is not None:
            self._on_progress(
                Progress(stage=self._stage, bytes_done=self._done, bytes_total=self._total)
            )


def _write_synced(path: Path, text: str) -> None:
    """Write a file and force it to disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
