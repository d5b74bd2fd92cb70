"""The data order as a pure function of (seed, step); rows T8, T10, T11."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.batches import TokenBatches, inputs_and_targets, permute


@given(size=st.integers(1, 2000), key=st.integers(0, 2**63))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    images = permute(np.arange(size), size, key=key)
    assert sorted(images) == list(range(size))


def test_permute_depends_on_its_key_and_spreads_neighbours() -> None:
    one, two = (permute(np.arange(10_000), 10_000, key=k) for k in (1, 2))
    assert (one == two).mean() < 0.01
    assert abs(np.corrcoef(one, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05


def test_one_image_alone_equals_its_place_in_all_of_them() -> None:
    everything = permute(np.arange(777), 777, key=9)
    assert [permute(np.array([i]), 777, key=9)[0] for i in (0, 5, 776)] == [
        everything[i] for i in (0, 5, 776)
    ]


def make(length: int = 1000, **changes: Any) -> TokenBatches:
    settings: dict[str, Any] = {"context": 10, "batch_sequences": 3, "seed": 4, **changes}
    return TokenBatches(np.arange(length, dtype=np.uint16), **settings)


def test_targets_are_the_inputs_shifted_by_one() -> None:
    batches = make()
    for step in (0, 1, 40, 500):
        rows = batches.at(step)
        assert rows.shape == (3, 11)
        # The tokens are 0, 1, 2, ...: each row must count up by one.
        assert (np.diff(rows, axis=1) == 1).all()


def test_a_batch_does_not_depend_on_what_was_read_before() -> None:
    straight = make()
    in_order = [straight.at(step).copy() for step in range(60)]
    backwards = make()
    for step in reversed(range(60)):
        assert (backwards.at(step) == in_order[step]).all()


def test_random_windows_begin_anywhere_and_wrap_around() -> None:
    batches = make(length=50, order="random")
    starts = batches.starts(0, 400)
    assert set(starts.ravel().tolist()) == set(range(50))
    counts = np.bincount(starts.ravel(), minlength=50)
    # 24 expected each; 1,200 independent draws.
    assert ((counts - 24) ** 2 / 24).sum() < 85
    for step in range(400):
        rows = batches.at(step)
        assert (rows[:, 0] == starts[step]).all()
        assert (rows[:, 1:] == (rows[:, :-1] + 1) % 50).all()
    assert (make(length=50, order="random", seed=5).starts(0, 400) != starts).any()


def test_an_epoch_visits_every_window_once_and_the_next_cuts_elsewhere() -> None:
    batches = make(batch_sequences=1)
    windows = batches.windows
    assert windows == 99
    first = [batches.at(step)[0, 0] for step in range(windows)]
    second = [batches.at(step)[0, 0] for step in range(windows, 2 * windows)]
    assert sorted(first) == [10 * i for i in range(windows)]
    shift = min(second)
    assert sorted(second) == [shift + 10 * i for i in range(windows)]
    assert 0 < shift < 10
    assert first != second


def test_seeds_give_different_orders_and_the_same_seed_the_same() -> None:
    assert (make(seed=1).at(0) == make(seed=1).at(0)).all()
    assert (make(seed=1).at(0) != make(seed=2).at(0)).any()


def test_the_order_of_a_published_seed_never_changes() -> None:
    # A change of these numbers changes every trial's loss: raise TRAINER_VERSION with it.
    assert make(batch_sequences=5, seed=0).starts(0, 2).tolist() == EXPECTED_STARTS


def test_a_corpus_of_exactly_one_window_repeats_it() -> None:
    batches = make(length=11)
    assert batches.windows == 1
    assert (batches.at(7) == np.arange(11)).all()


def test_a_corpus_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least context \+ 1 = 11, got 10"):
        make(length=10)


def test_tokens_past_65535_are_kept() -> None:
    tokens = np.array([70_000, 1, 2, 70_001], dtype=np.uint32)
    rows = TokenBatches(tokens, context=3, batch_sequences=1, seed=0).at(0)
    assert rows.tolist() == [[70_000, 1, 2, 70_001]]


EXPECTED_STARTS = [[190, 930, 210, 340, 730], [940, 510, 30, 20, 840]]


def test_a_target_is_the_token_after_its_input() -> None:
    inputs, targets = inputs_and_targets(torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]]))
    assert inputs.tolist() == [[3, 1, 4], [5, 9, 2]]
    assert targets.tolist() == [[1, 4, 1], [9, 2, 6]]
