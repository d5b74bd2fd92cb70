"""Random laws with half a per cent of noise: coverage where identified, refusals elsewhere.

`make bench-coverage` measures the same designs under 200 laws each, with all resamples.
"""

import pytest

from bench.bench_coverage import COVERAGE, REFUSED, SOUND, WRONG, Tally, tally


def by_name(designs):
    return pytest.mark.parametrize("design", designs, ids=lambda d: d.__name__)


@by_name(SOUND)
def test_ninety_percent_intervals_cover_where_identified(design):
    found = tally(design, laws=200, seed=1, resamples=100)
    assert found.identified > found.laws / 2
    assert COVERAGE[0] <= found.coverage <= COVERAGE[1]


@by_name(WRONG)
def test_unidentifiable_designs_are_refused(design):
    assert tally(design, laws=20, seed=2, resamples=0).refused_share >= REFUSED


@pytest.mark.parametrize(
    ("identified", "covered", "refused", "sound", "holds"),
    [
        (100, 90, 0, True, True),
        (100, 96, 0, True, False),
        (100, 84, 0, True, False),
        (0, 0, 0, True, False),
        (0, 0, 190, False, True),
        (0, 0, 189, False, False),
    ],
)
def test_the_bench_says_what_holds(identified, covered, refused, sound, holds):
    found = Tally(laws=200, identified=identified, refused=refused, covered=covered)
    assert found.holds(sound=sound) is holds
