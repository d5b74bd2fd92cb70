"""Configurations of `transformers`, as plain values: read, checked, and with fields replaced.

Nothing is downloaded and no code that comes with a configuration is run: only classes of the
installed library are used.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_BRINGS_CODE = (
    "auto_map",
    "trust_remote_code",
    "attn_implementation",
    "experts_implementation",
    "use_kernels",
    "quantization_config",
)
"""Keys by which a configuration can name code or kernels to be fetched, at any depth."""

_SAYS_NOTHING = ("architectures", "transformers_version", "dtype", "torch_dtype")
"""Keys about a stored checkpoint, not about the function."""


def read_config(source: str | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration as a person gave it.

    Args:
        source: path of a `config.json` or of its folder, or the fields themselves.
        folder: that a relative path is taken from.

    Raises:
        ValueError: when there is none, it names code, or its `model_type` is no causal language
            model of the installed library.
    """
    record = _read_file(source, folder) if isinstance(source, str) else dict(source)
    _refuse_code(record, "")
    kept = {k: v for k, v in record.items() if k not in _SAYS_NOTHING and not k.startswith("_")}
    model_type = kept.get("model_type")
    if model_type not in _causal_types():
        raise ValueError(
            f"model_type must name a causal language model of transformers, got {model_type!r}; "
            + _nearest(str(model_type), _causal_types())
        )
    if not isinstance(source, str):
        check_fields(kept, [key for key in kept if key != "model_type"])
    return kept


def _read_file(source: str, folder: Path) -> dict[str, Any]:
    path = folder / Path(source).expanduser()
    path = path / "config.json" if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"the configuration must be a file here, {path}: {error.strerror}; names on the hub "
            "are not looked up, so fetch its config.json yourself"
        ) from error
    except ValueError as error:
        raise ValueError(f"the configuration {path} must be JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"the configuration {path} must be a JSON object")
    return record


def _refuse_code(value: object, place: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in _BRINGS_CODE:
                raise ValueError(
                    f"a configuration must not bring code or kernels, got {place}{key}; remove the "
                    "key, or give the model's class as a family of your own, package.module:build"
                )
            _refuse_code(item, f"{place}{key}.")


def check_fields(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that the configuration's class knows the fields.

    Raises:
        ValueError: naming the nearest fields.
    """
    kind = _class(config["model_type"])
    known = sorted({*kind().to_dict(), *kind.attribute_map})
    for name in names:
        if name not in known:
            raise ValueError(f"{config['model_type']} has no field {name}; {_nearest(name, known)}")


def whole_config(
    config: Mapping[str, Any], fields: Mapping[str, Any], *, vocab_size: int, context: int
) -> dict[str, Any]:
    """A configuration with fields replaced, complete: every default of its class written out.

    The vocabulary and the longest sequence are those of the sweep unless they are named; special
    tokens are those of no tokenizer, because the sweep's own tokenizer is another one.

    Args:
        config: of `read_config`.
        fields: what replaces its fields.
        vocab_size: ids of the tokenizer.
        context: tokens of a sequence.

    Raises:
        ValueError: when the vocabulary or the longest sequence is too small, or the class refuses.
    """
    kind = _class(config["model_type"])
    canonical = kind.attribute_map
    settings = {
        canonical.get(name, name): value
        for source in (config, fields)
        for name, value in source.items()
        if name != "model_type"
    }
    limits = {"vocab_size": vocab_size, "max_position_embeddings": context}
    known = {*kind().to_dict(), *canonical}
    for name, least in limits.items():
        if name not in known:
            continue
        value = settings.setdefault(canonical.get(name, name), least)
        if not isinstance(value, int) or value < least:
            what = "the tokenizer's ids" if name == "vocab_size" else "the context"
            raise ValueError(f"{name} must be at least {what}, {least}, got {value!r}")
    settings |= {"use_cache": False}
    settings |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    try:
        found = kind(**settings).to_dict()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config['model_type']} refuses {dict(fields)}: {error}") from error
    return {
        key: value
        for key, value in json.loads(json.dumps(found)).items()
        if key not in _SAYS_NOTHING and not key.startswith("_")
    }


def base_values(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Values that the configuration, or else its class, has for the fields among `names` it knows.

    Args:
        config: of `read_config`.
        names: fields in the words of `transformers`, such as `hidden_size`.
    """
    kind = _class(config["model_type"])
    settings = {kind.attribute_map.get(k, k): v for k, v in config.items() if k != "model_type"}
    built = kind(**settings)
    known = {*built.to_dict(), *kind.attribute_map}
    return {name: getattr(built, name) for name in names if name in known}


def _class(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def _causal_types() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _nearest(word: str, valid: Iterable[str]) -> str:
    words = list(valid)
    close = difflib.get_close_matches(word, words, n=5, cutoff=0.4)
    return f"near it: {', '.join(close)}" if close else f"among them: {', '.join(words[:20])}"
