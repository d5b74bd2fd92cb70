"""Steps of a run: accumulation, memory, precision, noise; rows M9, R1, R2, R5, R6, R13."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from trainer import loop
from trainer.batches import TokenBatches
from trainer.config import OptimizerConfig, ScheduleConfig, TrainConfig
from trainer.data.shards import TokenData
from trainer.loop import Diverged, Training
from trainer.model.transformer import Transformer
from trainer.optim import Optimizer
from trainer.shapes import preset

MakeConfig = Callable[..., TrainConfig]
Start = Callable[..., Training]


@pytest.fixture
def start(token_data: TokenData) -> Start:
    """Begin a run; keyword arguments other than the configuration go to `Training`."""

    def begin(config: TrainConfig, *, backend: str = "block", **settings: int) -> Training:
        batches = TokenBatches(
            token_data.train,
            context=config.shape.context,
            batch_sequences=config.batch_sequences,
            seed=config.seed,
        )
        return Training(config, batches, device=torch.device("cpu"), backend=backend, **settings)

    return begin


def train(training: Training, steps: int) -> list[float]:
    first = training.step
    for _ in range(steps):
        training.advance()
    training.read_losses()
    return training.losses[first:]


@pytest.mark.parametrize("micro_batch_sequences", [1, 2, 3])
def test_micro_batches_equal_one_batch(
    micro_batch_sequences: int, make_config: MakeConfig, start: Start
) -> None:
    whole, parts = (
        start(make_config()),
        start(make_config(), micro_batch_sequences=micro_batch_sequences),
    )
    for expected, found in zip(train(whole, 10), train(parts, 10), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    assert parts.grad_norms == pytest.approx(whole.grad_norms, rel=1e-4)


def test_a_device_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    make_config: MakeConfig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(start(make_config()), 5)
    compute = Transformer.loss

    calls = []

    def with_little_memory(model: Transformer, tokens: torch.Tensor, targets: torch.Tensor):
        # The second part fails, when the first has already left its gradient behind.
        calls.append(len(tokens))
        if len(tokens) > 1 and calls.count(len(tokens)) == 2:
            raise torch.OutOfMemoryError
        return compute(model, tokens, targets)

    monkeypatch.setattr(Transformer, "loss", with_little_memory)
    training = start(make_config(), micro_batch_sequences=2)
    assert train(training, 5) == pytest.approx(expected, rel=1e-5)
    assert calls[:4] == [2, 2, 1, 1]
    assert training.micro_batch == 1


def test_one_sequence_that_does_not_fit_is_an_error(
    make_config: MakeConfig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Transformer, "loss", without_memory)
    with pytest.raises(torch.OutOfMemoryError):
        start(make_config()).advance()


def test_bf16_keeps_weights_and_moments_in_fp32_and_stays_close(
    make_config: MakeConfig, start: Start
) -> None:
    wide, narrow = (start(make_config(precision=p, steps=300)) for p in ("fp32", "bf16"))
    wide_losses, narrow_losses = train(wide, 300), train(narrow, 300)
    assert narrow_losses != wide_losses
    assert narrow_losses[-1] == pytest.approx(wide_losses[-1], rel=0.02)
    state = narrow.state()
    tensors = list(state["model"].values())
    for part in state["optimizer"].values():
        for moments in part["state"].values():
            tensors += [x for x in moments.values() if isinstance(x, torch.Tensor)]
    assert {x.dtype for x in tensors} == {torch.float32}


@pytest.mark.parametrize("name", ["adamw", "adam", "muon"])
@pytest.mark.parametrize("family", ["gpt", "deepseek"])
def test_every_optimiser_learns_and_resumes_bit_for_bit(
    name: str, family: str, make_config: MakeConfig, start: Start
) -> None:
    config = make_config(
        shape=preset(family, d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32),
        optimizer=OptimizerConfig(name=name, learning_rate=5e-3),
        dropout=0.1 if family == "gpt" else 0.0,
    )
    straight = start(config)
    losses = train(straight, 20)
    assert losses[-1] < losses[0] - 0.7
    first = start(config)
    train(first, 8)
    state = first.state()
    second = start(config)
    train(second, 3)
    second.restore(state)
    assert train(second, 12) == losses[8:]


def test_adam_decays_through_the_gradient_and_adamw_apart_from_it(
    make_config: MakeConfig, start: Start
) -> None:
    found = {}
    for name in ("adam", "adamw"):
        training = start(
            make_config(
                optimizer=OptimizerConfig(
                    name=name, learning_rate=1e-2, weight_decay=1.0, clip_norm=0.0
                ),
                schedule=ScheduleConfig(name="wsd"),
            )
        )
        up = training.model.blocks[0].feed_forward.up.weight
        before = up.detach().clone()
        training.advance()
        found[name] = (up - before).abs().max().item()
    # Adam's first step has the size of the learning rate whatever the decay.
    assert found["adam"] == pytest.approx(1e-2, rel=1e-3)
    assert found["adamw"] > 1.2e-2


def test_muon_updates_the_blocks_matrices_by_orthogonal_steps(
    make_config: MakeConfig, start: Start
) -> None:
    training = start(
        make_config(
            optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, weight_decay=0.0),
            schedule=ScheduleConfig(name="wsd"),
        )
    )
    up = training.model.blocks[0].feed_forward.up.weight
    before = up.detach().clone()
    training.advance()
    singular = torch.linalg.svdvals(up.detach() - before)
    # 0.2 sqrt(max(m, n)) times a nearly orthogonal matrix (Liu et al. 2025, equation 4).
    assert singular.median().item() == pytest.approx(1e-2 * 0.2 * 8, rel=0.3)
    assert singular.max() < 2 * singular.min() + 1e-2


def test_decay_all_reaches_embeddings_and_norms(make_config: MakeConfig, start: Start) -> None:
    optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=1.0, decay_all=True)
    training = start(make_config(optimizer=optimizer))
    gain = training.model.norm.weight
    training._optimizer.step(0.1)
    assert torch.allclose(gain, torch.full_like(gain, 0.9))


def test_dropout_noise_is_a_function_of_seed_and_step(
    make_config: MakeConfig, start: Start
) -> None:
    config = make_config(dropout=0.3)
    one = train(start(config), 4)
    torch.manual_seed(99)
    assert train(start(config), 4) == one
    assert train(start(dataclasses.replace(config, dropout=0.0)), 4) != one


def test_a_gradient_that_is_not_finite_is_a_divergence(
    make_config: MakeConfig, start: Start
) -> None:
    training = start(make_config())
    training.advance()
    training._optimizer.flat_grad[3] = float("inf")
    training.advance()
    training.advance()
    with pytest.raises(Diverged, match="the gradient norm was inf at step 2"):
        training.read_losses()


def test_the_mean_loss_is_of_the_steps_between_two_points(
    make_config: MakeConfig, start: Start
) -> None:
    training = start(make_config())
    losses = train(training, 7)
    assert training.mean_loss(3, 7) == sum(losses[3:7]) / 4
    assert training.mean_loss(0, 1) == losses[0]


def test_each_update_has_the_learning_rate_of_its_schedule(
    make_config: MakeConfig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(Optimizer, "step", lambda _, rate: used.append(rate))
    schedule = ScheduleConfig(name="wsd", warmup_steps=2, cooldown_steps=4, cooldown="linear")
    training = start(make_config(steps=8, schedule=schedule))
    for _ in range(8):
        training.advance()
    assert used == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.0075, 0.005, 0.0025, 0.0])


def test_experts_report_their_load(make_config: MakeConfig, start: Start) -> None:
    shape = preset("deepseek", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32)
    training = start(make_config(shape=shape))
    train(training, 3)
    load = training.take_expert_load()
    assert load is not None
    assert len(load) == 8
    assert sum(load) == pytest.approx(1.0)
    assert 1 / 8 <= max(load) < 1.0
    assert training.take_expert_load() is None
    assert start(make_config()).take_expert_load() is None


def test_a_single_sequence_through_a_single_layer_trains(
    make_config: MakeConfig, start: Start
) -> None:
    shape = preset("gpt", d_model=16, n_layer=1, n_head=1, vocab_size=256, context=32)
    losses = train(start(make_config(shape=shape, batch_sequences=1)), 30)
    assert losses[-1] < losses[0] - 1.0


def test_a_load_that_was_read_to_the_cpu_goes_on_where_the_model_is(
    make_config: MakeConfig, start: Start
) -> None:
    """Checkpoints are read to the CPU; `meta` stands for the GPU that is not here."""
    shape = preset("deepseek", d_model=16, n_layer=1, n_head=2, vocab_size=256, context=32)
    training = start(make_config(shape=shape))
    train(training, 2)
    state = training.state()
    training.device = torch.device("meta")
    training.restore(state)
    assert training._load is not None
    assert training._load.device.type == "meta"


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_a_compiled_step_is_the_same_step(
    family: str, make_config: MakeConfig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced whole, as for a GPU; what is generated from the trace is the compiler's own matter."""
    graphs = []

    def run_as_traced(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    how = {"backend": run_as_traced, "fullgraph": True, "dynamic": False}
    monkeypatch.setattr(loop, "COMPILE", how)
    config = make_config(family=family)
    plain, compiled = (start(config, backend="sdpa", compiled=c) for c in (False, True))
    assert train(compiled, 3) == pytest.approx(train(plain, 3), rel=1e-6)
    assert compiled.grad_norms == pytest.approx(plain.grad_norms, rel=1e-5)
    assert len(graphs) == 1
