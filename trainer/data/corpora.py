"""Corpora by kind: `open_corpus` turns a `DataSource` into documents.

The embedded corpus, which lives here, is the source code of the running Python's standard library:
about 12 MB of real text that is on every machine.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.documents import Corpus, Document, is_held_out
from trainer.data.errors import DataError
from trainer.data.source import DataSource

NOT_LIBRARY = frozenset(
    ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")
)
"""Folders left out of the embedded corpus: installed packages, tests, compiled files."""


def open_corpus(source: DataSource) -> Corpus:
    """Return the corpus of a source; heavy readers are imported only where they are needed.

    Raises:
        DataError: when the corpus is not there or cannot be read.
    """
    kind = source.corpus_kind
    if kind == "embedded":
        return EmbeddedCorpus(
            root=Path(sysconfig.get_paths()["stdlib"]),
            seed=source.seed,
            validation_fraction=source.validation_fraction,
        )
    if kind == "local":
        from trainer.data.files import open_files

        return open_files(source)
    if kind == "synthetic":
        from trainer.data.synthetic import SyntheticCorpus

        return SyntheticCorpus(
            spec=source.synthetic,
            seed=source.seed,
            validation_fraction=source.validation_fraction,
        )
    from trainer.data.hub import open_hub

    return open_hub(source)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedCorpus:
    """Python source files below a folder; a file is a document, split by its relative path."""

    root: Path
    """Folder of the standard library."""
    seed: int
    """Seeds the split."""
    validation_fraction: float
    """Part of the files held out."""

    @property
    def description(self) -> str:
        """What the text is."""
        version = sysconfig.get_python_version()
        return f"embedded: source code of the standard library of Python {version}"

    @property
    def split(self) -> str:
        """How validation is chosen."""
        return (
            f"{self.validation_fraction:.2%} of the files, by hash of the relative path "
            f"(seed {self.seed})"
        )

    @property
    def entropy_rate(self) -> float | None:
        """Unknown for real text."""
        return None

    @property
    def size_bytes(self) -> int:
        """Sizes of the files together."""
        return sum((self.root / path).stat().st_size for path in self.paths())

    def paths(self) -> list[str]:
        """Relative paths of the source files, sorted, with forward slashes.

        `_sysconfigdata*` is left out: it records how one machine's Python was built.
        """
        found = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name not in NOT_LIBRARY]
            inside = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if inside == "." else inside + "/"
            found += [
                prefix + name
                for name in names
                if name.endswith(".py") and not name.startswith("_sysconfigdata")
            ]
        return sorted(found)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Relative path and content of every file that is UTF-8.

        Raises:
            DataError: `corpus-empty` when there is none.
        """
        empty = True
        for path in self.paths():
            data = (self.root / path).read_bytes()
            if not _is_utf8(data):
                continue
            empty = False
            yield path, data
        if empty:
            raise DataError(
                "corpus-empty",
                str(self.root),
                "the embedded corpus must hold Python source files, and there is none",
                "Name a corpus of your own: this Python has no source of its standard library",
            )

    def skipped_documents(self) -> int:
        """How many files are left out because they are not UTF-8."""
        return sum(not _is_utf8((self.root / path).read_bytes()) for path in self.paths())

    def shared_fraction(self) -> None:
        """Not looked for: a file goes to one split."""
        return None

    def fingerprint(self) -> str:
        """SHA-256 over relative paths, contents and the split."""
        digest = hashlib.sha256(f"embedded {self.seed} {self.validation_fraction!r}".encode())
        for path, data in self.files():
            digest.update(f"\n{path}\n{len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """One document per file, in the order of their paths."""
        for run, (path, data) in enumerate(self.files()):
            held_out = is_held_out(path.encode(), seed=self.seed, fraction=self.validation_fraction)
            yield Document(data=data, validation=held_out, run=run)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
