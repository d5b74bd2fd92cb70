"""From a configuration to the model that it trains."""

from __future__ import annotations

from trainer.config import TrainConfig
from trainer.foreign import ForeignShape
from trainer.model.attention import Backend
from trainer.model.foreign import ForeignModel
from trainer.model.language_model import LanguageModel
from trainer.model.transformer import Transformer
from trainer.shapes import count_parameters


def build_model(config: TrainConfig, *, backend: Backend = "sdpa") -> LanguageModel:
    """Build the model of a run with its initial weights, on the CPU.

    Args:
        config: the run; shape, seed, initialisation and dropout are used.
        backend: how models of ours compute attention; others do as they do.

    Raises:
        ValueError: when a model of other code cannot be built, or the initialisation is not for
            its kind.
        AssertionError: when the built model has another size than was counted.
    """
    shape = config.shape
    if (config.init == "own") is not isinstance(shape, ForeignShape):
        raise ValueError(
            "init must be own for a model of other code, and a scheme of ours for one of ours; got "
            f"{config.init} for {getattr(shape, 'family', 'a model of ours')}"
        )
    model: LanguageModel
    if isinstance(shape, ForeignShape):
        if config.dropout:
            raise ValueError(
                f"dropout must be 0 for {shape.family}: it belongs into the model's own "
                f"configuration; got {config.dropout}"
            )
        model = ForeignModel(shape, seed=config.seed)
    else:
        model = Transformer(
            shape, seed=config.seed, backend=backend, init=config.init, dropout=config.dropout
        )
    counted = count_parameters(shape).total
    assert model.trained == counted, (
        f"the built model has {model.trained} parameters where {counted} were counted"
    )
    return model
