"""`DataSource`: which text, which tokenizer, which part held out. Pure, standard library only.

Every rule that needs no file is checked here, so that a budget file can be refused at once; what
needs a look at the disk or at a tokenizer is checked by `trainer.data.facts` and
`trainer.data.shards.prepare`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

from trainer.data.errors import DataError, did_you_mean

CorpusKind = Literal["embedded", "synthetic", "hub", "local"]
TokenizerKind = Literal["byte", "char", "bpe", "hf"]
DocumentUnit = Literal["auto", "line"]
Separator = Literal["auto", "none"]

SYNTHETIC_OPTIONS: dict[str, dict[str, float]] = {
    "simple": {"lines": 8_000},
    "addition": {"lines": 8_000},
    "actions": {"lines": 50_000},
    "markov": {"entropy": 1.5, "symbols": 32, "order": 2, "characters": 2_000_000},
}
"""Kinds of synthetic corpus with their options and defaults."""

MAX_MARKOV_TABLE = 1 << 21
"""Most entries of a Markov source's table, symbols ** (order + 1): it is kept in memory."""
MIN_BPE_VOCABULARY = 257
"""256 bytes and the end-of-document token."""

DATA_SUFFIXES = frozenset(
    (
        *("txt", "text", "raw", "tokens", "md", "rst", "tex", "csv", "tsv"),
        *("py", "rs", "c", "h", "cpp", "js", "ts", "java", "go"),
        *("json", "jsonl", "ndjson", "parquet"),
        *("gz", "xz", "bz2", "zst"),
    )
)
"""Endings (without the dot) that mark a corpus as a local file even when it is not there."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_HUB_PREFIXES = ("hub:", "hf:")
_SPLIT_PREFIX = "split:"


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticSpec:
    """A synthetic corpus with every option resolved."""

    kind: str
    """One of `SYNTHETIC_OPTIONS`."""
    options: tuple[tuple[str, float], ...]
    """Option names and values, sorted by name."""

    def option(self, name: str) -> float:
        """Value of one option."""
        return dict(self.options)[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class HubName:
    """A data set of the Hugging Face hub."""

    name: str
    """Repository, `owner/name`."""
    config: str | None
    """Configuration (subset), where the data set has several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """Text, tokenizer and split; the same source always gives the same tokens.

    Raises:
        DataError: at construction, for the first rule that a field breaks (`faults_of` lists all
            of them).
    """

    corpus: str | tuple[str, ...] = "embedded"
    """`embedded`; a path, glob pattern or several of them; `owner/name[:config]` of the hub (or
    with the prefix `hub:`); `synthetic:KIND[?option=value&...]`."""
    text_column: str = "text"
    """Column (JSON lines, Parquet, hub) that holds the text."""
    tokenizer: str = "byte"
    """`byte`, `char`, `bpe:SIZE` (trained here), or an HF tokenizer: hub name or local folder."""
    validation: str | None = None
    """Held-out text of its own: a path or glob pattern, or `split:NAME` of a hub data set. None:
    `validation_fraction` of the documents, chosen by hash."""
    validation_fraction: float = 0.05
    """Part of the documents held out when `validation` is None, in (0, 0.5]."""
    seed: int = 0
    """Seeds the choice of held-out documents and synthetic text."""
    document: DocumentUnit = "auto"
    """`auto`: a file, or a row of JSON lines or Parquet, is a document. `line`: each line of a
    text file, stripped, empty ones left out."""
    separator: Separator = "auto"
    """`auto`: the tokenizer's end-of-document token stands between documents. `none`: nothing."""

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise faults[0]

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpus as a tuple of one or more strings."""
        return (self.corpus,) if isinstance(self.corpus, str) else self.corpus

    @property
    def corpus_kind(self) -> CorpusKind:
        """Which kind of corpus this is; several strings are always local."""
        return corpus_kind(self.corpora[0]) if len(self.corpora) == 1 else "local"

    @property
    def tokenizer_kind(self) -> TokenizerKind:
        """Which kind of tokenizer this is."""
        return tokenizer_kind(self.tokenizer)

    @property
    def bpe_size(self) -> int:
        """Vocabulary asked of a tokenizer trained here."""
        return int(self.tokenizer.partition(":")[2])

    @property
    def synthetic(self) -> SyntheticSpec:
        """The synthetic corpus, options resolved."""
        return parse_synthetic(self.corpora[0])

    @property
    def hub(self) -> HubName:
        """The hub data set."""
        return parse_hub_name(self.corpora[0])

    @property
    def hub_validation_split(self) -> str | None:
        """Named hub split to validate on, from `validation: split:NAME`."""
        if self.validation is not None and self.validation.startswith(_SPLIT_PREFIX):
            return self.validation.removeprefix(_SPLIT_PREFIX)
        return None

    def resolved(self, base: Path) -> DataSource:
        """Return the source with relative local paths taken from `base` (a budget file's folder).

        A tokenizer is taken for a local folder when it begins with `.`, `/` or `~`.
        """

        def place(path: str) -> str:
            return str(base / Path(path).expanduser())

        corpus = self.corpus
        if self.corpus_kind == "local":
            corpus = tuple(place(path) for path in self.corpora)
            corpus = corpus[0] if len(corpus) == 1 else corpus
        validation = self.validation
        if validation is not None and self.hub_validation_split is None:
            validation = place(validation)
        tokenizer = self.tokenizer
        if tokenizer.startswith((".", "/", "~")):
            tokenizer = place(tokenizer)
        return dataclasses.replace(self, corpus=corpus, validation=validation, tokenizer=tokenizer)


def corpus_kind(corpus: str) -> CorpusKind:
    """Tell the kinds of corpus apart by their spelling alone.

    A string is a hub name when it has the prefix `hub:` or `hf:`, or reads `owner/name` without a
    file's ending; everything else that is neither `embedded` nor `synthetic:` is a local path.
    """
    if corpus == "embedded":
        return "embedded"
    if corpus.startswith("synthetic:"):
        return "synthetic"
    if corpus.startswith(_HUB_PREFIXES):
        return "hub"
    suffix = corpus.rpartition(".")[2].lower()
    if _HUB_NAME.fullmatch(corpus) and suffix not in DATA_SUFFIXES:
        return "hub"
    return "local"


def tokenizer_kind(tokenizer: str) -> TokenizerKind:
    """Tell the kinds of tokenizer apart by their spelling."""
    if tokenizer == "byte":
        return "byte"
    if tokenizer == "char":
        return "char"
    return "bpe" if tokenizer.startswith("bpe:") else "hf"


def parse_hub_name(corpus: str) -> HubName:
    """Split `owner/name:config`, with or without the prefix."""
    for prefix in _HUB_PREFIXES:
        corpus = corpus.removeprefix(prefix)
    name, _, config = corpus.partition(":")
    return HubName(name=name, config=config or None)


def parse_synthetic(corpus: str) -> SyntheticSpec:
    """Parse `synthetic:KIND?option=value&...` and fill in the defaults.

    Raises:
        DataError: `corpus-unknown` for an unknown kind, `option-unknown` or `option-value` for a
            wrong option; the valid ones are listed.
    """
    kind, _, query = corpus.removeprefix("synthetic:").partition("?")
    if kind not in SYNTHETIC_OPTIONS:
        valid = ", ".join(sorted(SYNTHETIC_OPTIONS))
        raise DataError(
            "corpus-unknown",
            "corpus",
            f"a synthetic corpus must be one of {valid}; got {kind!r}"
            + did_you_mean(kind, SYNTHETIC_OPTIONS),
            f"Write one of {', '.join('synthetic:' + k for k in sorted(SYNTHETIC_OPTIONS))}",
        )
    options = dict(SYNTHETIC_OPTIONS[kind])
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in options:
            raise DataError(
                "option-unknown",
                "corpus",
                f"synthetic:{kind} has the options {', '.join(sorted(options))}; got {name!r}"
                + did_you_mean(name, options),
                f"Write for example synthetic:{kind}?{next(iter(options))}=...",
            )
        options[name] = _option_value(kind, name, text)
    _check_options(kind, options)
    return SyntheticSpec(kind=kind, options=tuple(sorted(options.items())))


def _option_value(kind: str, name: str, text: str) -> float:
    """Parse one option; all but `entropy` are whole numbers, at least 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = name != "entropy"
    if not math.isfinite(value) or value <= 0 or (whole and (value < 1 or value != int(value))):
        want = "a whole number of at least 1" if whole else "a positive number, nats per character"
        raise DataError(
            "option-value",
            "corpus",
            f"{name} of synthetic:{kind} must be {want}; got {text!r}",
            f"Write for example {name}={SYNTHETIC_OPTIONS[kind][name]:g}",
        )
    return value


def _check_options(kind: str, options: dict[str, float]) -> None:
    """Check options against each other."""
    if kind != "markov":
        return
    if not 2 <= options["symbols"] <= 62:
        raise DataError(
            "option-value",
            "corpus",
            f"symbols of synthetic:markov must be 2 to 62 (digits and letters); got "
            f"{options['symbols']:g}",
            "Write for example symbols=32",
        )
    if not options["entropy"] < math.log(options["symbols"]):
        raise DataError(
            "option-value",
            "corpus",
            f"entropy of synthetic:markov must be below ln(symbols) = "
            f"{math.log(options['symbols']):.4f} nats per character; got {options['entropy']:g}",
            "Lower entropy or raise symbols",
        )
    if options["symbols"] ** (options["order"] + 1) > MAX_MARKOV_TABLE:
        raise DataError(
            "option-value",
            "corpus",
            f"symbols ** (order + 1) of synthetic:markov must be at most {MAX_MARKOV_TABLE:,}; got "
            f"{options['symbols'] ** (options['order'] + 1):,.0f}",
            "Lower symbols or order",
        )


def faults_of(**fields: Any) -> tuple[DataError, ...]:
    """Every rule that the fields of a source break by themselves, without a look at the disk.

    Args:
        **fields: fields of `DataSource`, of the right types; the others have their defaults.
    """
    # The constructor stops at the first fault; this looks at the same record without it.
    source = object.__new__(DataSource)
    for field in dataclasses.fields(DataSource):
        object.__setattr__(source, field.name, fields.pop(field.name, field.default))
    if fields:
        raise TypeError(f"DataSource has no fields {sorted(fields)}")
    return _faults(source)


def _faults(source: DataSource) -> tuple[DataError, ...]:
    """Every rule that the fields break, corpus first."""
    faults: list[DataError] = []
    corpora = source.corpora
    if not corpora or any(not isinstance(c, str) or not c.strip() for c in corpora):
        faults.append(
            DataError(
                "corpus-unknown",
                "corpus",
                f"the corpus must be one or more names or paths, none of them empty; got "
                f"{source.corpus!r}",
                "Write embedded, a path, owner/name of the hub, or synthetic:simple",
            )
        )
        return tuple(faults)
    not_paths = [c for c in corpora if len(corpora) > 1 and corpus_kind(c) in _NOT_IN_LISTS]
    if not_paths:
        faults.append(
            DataError(
                "corpus-unknown",
                "corpus",
                f"a list of corpora must hold local paths only; got {not_paths[0]!r}",
                "Name one corpus, or local files only",
            )
        )
    elif source.corpus_kind == "synthetic":
        try:
            parse_synthetic(corpora[0])
        except DataError as fault:
            faults.append(fault)
    faults += _tokenizer_faults(source.tokenizer)
    if not 0.0 < source.validation_fraction <= 0.5:
        faults.append(
            DataError(
                "option-value",
                "validation_fraction",
                f"the held-out part must lie in (0, 0.5]; got {source.validation_fraction!r}",
                "Write for example 0.05",
            )
        )
    faults += _validation_faults(source)
    for name, value, valid in (
        ("document", source.document, ("auto", "line")),
        ("separator", source.separator, ("auto", "none")),
    ):
        if value not in valid:
            faults.append(
                DataError(
                    "option-value",
                    name,
                    f"must be one of {', '.join(valid)}; got {value!r}",
                    f"Write {valid[0]}",
                )
            )
    return tuple(faults)


_NOT_IN_LISTS = ("embedded", "synthetic")


def _validation_faults(source: DataSource) -> list[DataError]:
    """Check that the kind of validation fits the kind of corpus."""
    if source.validation is None:
        return []
    place = "validation"
    if not source.validation.strip():
        return [
            DataError(
                "corpus-unknown", place, "must not be empty", "Name a file, or leave the key out"
            )
        ]
    kind = source.corpus_kind
    named_split = source.hub_validation_split is not None
    if kind in ("embedded", "synthetic"):
        return [
            DataError(
                "option-value",
                place,
                f"a corpus of kind {kind} holds out its own validation text; got "
                f"{source.validation!r}",
                "Leave validation out, or name local files as the corpus",
            )
        ]
    if named_split and kind != "hub":
        return [
            DataError(
                "option-value",
                place,
                f"only a hub data set has named splits; got {source.validation!r} for a corpus of "
                f"kind {kind}",
                "Name a file",
            )
        ]
    if source.validation in source.corpora:
        return [
            DataError(
                "validation-overlap",
                place,
                f"training and validation must not share text; {source.validation!r} is both",
                "Name another file, or leave validation out to hold out a part of the corpus",
            )
        ]
    return []


def _tokenizer_faults(tokenizer: str) -> list[DataError]:
    """Check the spelling of a tokenizer."""
    kinds = "byte, char, bpe:SIZE, an HF tokenizer's name (owner/name or gpt2) or a local folder"
    remedy = "Write for example byte, bpe:4096 or ./tokenizer"
    if not isinstance(tokenizer, str) or not tokenizer.strip():
        message = f"the tokenizer must be one of {kinds}; got {tokenizer!r}"
        return [DataError("tokenizer-unknown", "tokenizer", message, remedy)]
    if tokenizer.startswith("bpe:"):
        size = tokenizer.partition(":")[2]
        if not size.isascii() or not size.isdigit() or int(size) < MIN_BPE_VOCABULARY:
            message = (
                f"bpe:SIZE must name a whole vocabulary size of at least {MIN_BPE_VOCABULARY} (256 "
                f"bytes and the end of a document); got {tokenizer!r}"
            )
            return [DataError("tokenizer-unknown", "tokenizer", message, remedy)]
        return []
    near = did_you_mean(tokenizer.lower(), ("byte", "bytes", "char", "chars", "bpe", "character"))
    if near or ("/" not in tokenizer and ":" in tokenizer):
        guess = did_you_mean(tokenizer.lower(), ("byte", "char", "bpe:4096"), cutoff=0.4)
        if tokenizer_kind(tokenizer) == "hf":
            message = f"the tokenizer must be one of {kinds}; got {tokenizer!r}{guess}"
            return [DataError("tokenizer-unknown", "tokenizer", message, remedy)]
    return []
