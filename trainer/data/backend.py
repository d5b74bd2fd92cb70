"""Subword tokenizers on the `tokenizers` library: GPT-2's files, Hugging Face folders, own BPE."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from trainer.data.bpe import END_OF_DOCUMENT, byte_alphabet, learn_merges
from trainer.data.errors import DataError, did_you_mean
from trainer.data.record import TokenArray, write_record

BACKEND_NAME = "tokenizer.json"
GPT2_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""Names under which GPT-2's vocabulary and merges are found."""
_IDENTITY_SUFFIXES = frozenset((".json", ".txt", ".bpe", ".model", ".tiktoken"))


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendTokenizer:
    """A `tokenizers.Tokenizer` with a name and a separator.

    The text of a special token inside a document (`<|endoftext|>` in a file of stories) becomes
    that token, as everywhere in the Hugging Face libraries.
    """

    name: str
    """Name, for a person."""
    backend: tokenizers.Tokenizer
    """The library's object."""
    separator: int | None
    """End-of-document token."""

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id, so that every id has a row in an embedding."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of the serialised tokenizer and its separator."""
        text = f"{self.backend.to_str()}\n{self.separator}"
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, texts: Sequence[bytes], /) -> list[TokenArray]:
        """Token ids of each text; the library encodes texts in parallel."""
        encodings = self.backend.encode_batch_fast(
            [text.decode("utf-8") for text in texts], add_special_tokens=False
        )
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, tokens: Sequence[int], /) -> bytes:
        """Text of token ids; bytes that are no whole character become U+FFFD."""
        text: str = self.backend.decode([int(t) for t in tokens], skip_special_tokens=False)
        return text.encode("utf-8")

    def save(self, folder: Path, /) -> None:
        """Write `tokenizer.json` (which `transformers` reads too) and the record."""
        self.backend.save(str(folder / BACKEND_NAME))
        write_record(folder, {"kind": "backend", "name": self.name, "separator": self.separator})


def load_saved(folder: Path, record: dict[str, Any]) -> BackendTokenizer:
    """Inverse of `BackendTokenizer.save`."""
    return BackendTokenizer(
        name=record["name"],
        backend=_read_backend(folder / BACKEND_NAME),
        separator=record["separator"],
    )


def train_bpe(texts: Iterable[bytes], *, size: int, place: str) -> BackendTokenizer:
    """Train byte-level BPE to a vocabulary of exactly `size`.

    Ids: 0 is `<|endoftext|>`, 1 to 256 are the bytes, then the merges in the order they were
    learnt. Memory grows with the number of distinct words, not with the text.

    Args:
        texts: UTF-8 training text.
        size: vocabulary size, at least 257.
        place: the corpus, for error messages.

    Raises:
        DataError: `vocabulary-unreachable` when the text is too short for so many merges.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    words: Counter[str] = Counter()
    for text in texts:
        pieces = text.decode("utf-8").replace(END_OF_DOCUMENT, "\n")
        words.update(word for word, _ in splitter.pre_tokenize_str(pieces))
    alphabet = byte_alphabet()
    value = {character: byte for byte, character in enumerate(alphabet)}
    merges = learn_merges(
        ((bytes(value[c] for c in word), count) for word, count in words.items()),
        symbols=size - 257,
        place=place,
    )
    vocabulary = {token: index for index, token in enumerate([END_OF_DOCUMENT, *alphabet])}
    pairs = []
    for first, second in merges:
        pair = tuple("".join(alphabet[byte] for byte in symbol) for symbol in (first, second))
        pairs.append(pair)
        vocabulary.setdefault("".join(pair), len(vocabulary))
    return BackendTokenizer(
        name=f"bpe:{size}",
        backend=_byte_level(vocabulary, pairs),
        separator=vocabulary[END_OF_DOCUMENT],
    )


def _byte_level(vocabulary: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE with GPT-2's splitting and `<|endoftext|>` as special token."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    if END_OF_DOCUMENT in vocabulary:
        backend.add_special_tokens([END_OF_DOCUMENT])
    return backend


def open_hf(name: str) -> BackendTokenizer:
    """Load a tokenizer from a local folder or from the hub (or its local cache).

    A folder with GPT-2's two files and no configuration is read as GPT-2's. No code that comes
    with a tokenizer is ever run.

    Raises:
        DataError: `tokenizer-missing` when there is none, `tokenizer-unreadable` when its files
            are broken, `tokenizer-slow` when it has no fast implementation.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise _missing(name, f"there is no folder {folder.absolute()}{_near(folder)}")
        return _from_transformers(name, local=False)
    if not (folder / "tokenizer_config.json").is_file():
        for vocabulary, merges in GPT2_FILES:
            if (folder / vocabulary).is_file() and (folder / merges).is_file():
                return _gpt2(folder / vocabulary, folder / merges)
        if (folder / BACKEND_NAME).is_file():
            backend = _read_backend(folder / BACKEND_NAME)
            return _plain(folder.name, backend, backend.token_to_id(END_OF_DOCUMENT))
        wanted = "tokenizer.json, or " + " or ".join(" + ".join(pair) for pair in GPT2_FILES)
        raise _missing(name, f"the folder {folder.absolute()} must hold {wanted}")
    return _from_transformers(str(folder), local=True)


def hf_identity(name: str) -> str:
    """Hash of a local folder's tokenizer files, or of a hub tokenizer as loaded."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _from_hub(name).digest
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _IDENTITY_SUFFIXES:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=8)
def _from_hub(name: str) -> BackendTokenizer:
    return open_hf(name)


def _from_transformers(name: str, *, local: bool) -> BackendTokenizer:
    """Load with `AutoTokenizer`, which knows every format and the end-of-text token."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, local_files_only=local
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        where = "in the folder" if local else "on this machine or the hub"
        raise _missing(name, f"no tokenizer {where} could be loaded: {reason}") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise DataError(
            "tokenizer-slow",
            f"tokenizer {name}",
            f"a tokenizer must run on the tokenizers library; {type(loaded).__name__} does not",
            "Convert it to a tokenizer.json, or use another tokenizer",
        )
    return _plain(Path(name).name if local else name, backend, loaded.eos_token_id)


def _plain(name: str, backend: tokenizers.Tokenizer, separator: int | None) -> BackendTokenizer:
    """Wrap a backend after switching off truncation and padding, which would drop or add text."""
    backend.no_truncation()
    backend.no_padding()
    return BackendTokenizer(name=name, backend=backend, separator=separator)


def _gpt2(vocabulary_path: Path, merges_path: Path) -> BackendTokenizer:
    """Read GPT-2's vocabulary (JSON) and merges (a pair per line after a version line)."""
    try:
        vocabulary = json.loads(vocabulary_path.read_text(encoding="utf-8"))
        lines = merges_path.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#v")]
        backend = _byte_level(vocabulary, merges)
    # `tokenizers` raises bare Exception for merges that are not in the vocabulary.
    except Exception as error:
        raise DataError(
            "tokenizer-unreadable",
            str(vocabulary_path.parent),
            f"{vocabulary_path.name} and {merges_path.name} must be a byte-level BPE vocabulary "
            f"and its merges; got {type(error).__name__}: {error}",
            "Fetch the two files again",
        ) from error
    return _plain("gpt2", backend, vocabulary.get(END_OF_DOCUMENT))


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    # `tokenizers` raises bare Exception for a file it cannot read.
    except Exception as error:
        raise DataError(
            "tokenizer-unreadable",
            str(path),
            f"the file must be a serialised tokenizer; got {type(error).__name__}: {error}",
            "Save the tokenizer again",
        ) from error


def _missing(name: str, what: str) -> DataError:
    return DataError(
        "tokenizer-missing",
        "tokenizer",
        f"{name!r} must be byte, char, bpe:SIZE, a local folder or a hub tokenizer; {what}",
        "Write byte, or bpe:4096 to train one here, or correct the name or path",
    )


def _near(folder: Path) -> str:
    parent = folder.absolute().parent
    if not parent.is_dir():
        return ""
    return did_you_mean(folder.name, [entry.name for entry in parent.iterdir() if entry.is_dir()])
