"""What a validation curve says: patience, plateaus, curves that fall or rise; rows R8, R9, R10.

The curves are those of diary 1 (aditya699/Neural-Memory-for-Long-Context-LMs, public).
"""

from __future__ import annotations

import math

import pytest

from trainer.curve import best, findings, has_plateaued, out_of_patience

EPOCH = 7063
EXPERIMENT_2 = [7.2842, 6.9867, 6.7338, 6.4804, 6.3027, 6.1547, 6.0556, 5.9870, 5.9348, 5.8991]
EXPERIMENT_3 = {
    **{1: 376.01, 2: 187.36, 4: 91.76, 5: 77.75, 6: 71.38},
    **{7: 68.84, 8: 67.12, 9: 66.40, 10: 65.71},
}


def experiment_3(epochs: int) -> list[tuple[int, float]]:
    return [(e * EPOCH, math.log(p)) for e, p in EXPERIMENT_3.items() if e <= epochs]


def labels(found: tuple[str, ...]) -> list[str]:
    return [text.split(":")[0] for text in found]


def test_experiment_3_is_on_a_plateau_after_10_epochs_and_not_before() -> None:
    assert [e for e in EXPERIMENT_3 if has_plateaued(experiment_3(e))] == [10]
    said = findings(experiment_3(10), steps=11 * EPOCH, planned=20 * EPOCH)
    assert labels(said) == ["stopped early", "plateau"]
    assert "by 1.1%, 1.0%, less than 1.5% each" in said[1]


def test_experiment_4_is_on_no_plateau_and_ran_9_of_15_epochs() -> None:
    """Of its curve only the last point was written down; one point is no plateau."""
    history = [(9 * EPOCH, 3.8358)]
    assert not has_plateaued(history)
    said = findings(history, steps=9 * EPOCH, planned=15 * EPOCH)
    assert said == ("stopped early: 63,567 of 105,945 planned steps were run",)


def test_experiment_4_still_improving_as_its_author_saw_it_is_flagged() -> None:
    """With the last point of the run before it as the curve: 65.71, then 46.33."""
    history = [(8 * EPOCH, math.log(65.71)), (9 * EPOCH, 3.8358)]
    said = findings(history, steps=9 * EPOCH, planned=15 * EPOCH)
    assert labels(said) == ["stopped early", "still improving at stop"]


def test_experiment_2_ran_10_epochs_for_1_and_was_still_improving() -> None:
    history = [(e * EPOCH, loss) for e, loss in enumerate(EXPERIMENT_2, start=1)]
    assert not has_plateaued(history)
    said = findings(history, steps=10 * EPOCH, planned=EPOCH)
    assert labels(said) == ["longer than planned", "still improving at stop"]
    assert said[0].endswith("70,630 of 7,063 planned steps were run")
    assert said[1].endswith("by 3.5%")


def test_a_rising_curve_is_named_with_its_best_step() -> None:
    history = [(10, 3.0), (20, 2.5), (30, 2.505), (40, 2.6)]
    (said,) = findings(history, steps=40, planned=40)
    assert said.startswith("validation rising: held-out loss 2.6000 at step 40, 0.1000 above")
    assert said.endswith("at step 20")
    assert labels(findings(history[:3], steps=30, planned=30)) == []


def test_a_run_without_a_curve_says_only_what_its_length_does() -> None:
    assert findings([], steps=30, planned=30) == ()
    assert labels(findings([], steps=20, planned=30)) == ["stopped early"]


@pytest.mark.parametrize(
    ("losses", "patience", "over_at"),
    [
        ([5.0, 4.0, 4.1, 4.2, 4.3, 4.4, 4.5], 5, 7),
        ([5.0, 4.0, 4.1, 3.9, 4.3, 4.4, 4.5], 3, 7),
        ([5.0, 4.0, 4.0, 4.0], 2, 4),
        ([5.0, 4.0, 3.0, 2.0], 1, None),
    ],
)
def test_patience_counts_evaluations_since_the_best(
    losses: list[float], patience: int, over_at: int | None
) -> None:
    history = list(enumerate(losses, start=1))
    over = [n for n, _ in history if out_of_patience(history[:n], patience=patience)]
    assert (over[0] if over else None) == over_at
    assert not out_of_patience([], patience=1)


def test_a_best_must_beat_the_one_before_by_the_asked_margin() -> None:
    history = [(1, 4.0), (2, 3.95), (3, 3.92), (4, 3.91)]
    assert best(history) == (4, 3.91)
    assert best(history, min_delta=0.06) == (3, 3.92)
    assert out_of_patience(history, patience=1, min_delta=0.06)
