"""Pictures: ticks and labels that can be read, colours told apart, every point named."""

import itertools
import math
import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.published import BESIROGLU, PUBLISHED
from analysis.report.gather import gather
from analysis.report.plot_style import (
    BLUE,
    DARK,
    DASHES,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    PURPLE,
    RAMP,
    RAMP_DARK,
    VERMILION,
    log_ticks,
    padded,
    spread_labels,
)
from analysis.report.plots import draw_pictures
from analysis.report.svg import render, theme_css
from analysis.report.sweep_facts import CurvePoint, SweepFacts
from analysis.table import read_rows

SVG = "{http://www.w3.org/2000/svg}"


def frame(computes=(1e18, 1e19, 1e20), sizes=5, *, reach=4.0, noise=0.002, levels=True):
    rng = np.random.default_rng(3)
    rows = []
    for level, flops in enumerate(computes):
        for N in BESIROGLU.optimum(flops).params * np.geomspace(1 / reach, reach, sizes):
            D = flops / (6 * N)
            loss = float(BESIROGLU.loss(N, D)) * float(np.exp(noise * rng.standard_normal()))
            rows.append({"params_total": N, "tokens": D, "flops": flops, "loss": loss})
            if levels:
                rows[-1] |= {"level": level, "trial_id": f"t{len(rows)}"}
    return pd.DataFrame(rows)


def evidence_of(rows, *, target=1e21, sweep=None):
    table = read_rows(rows)
    fit = fit_table(table, target_flops=target, resamples=40).to_dict()
    return gather(fit, table, sweep)


@pytest.fixture(scope="module")
def evidence():
    rows = frame()
    rows.loc[3, "excluded"] = "diverged"
    rows.loc[3, "loss"] = 9.0
    rows["excluded"] = rows["excluded"].fillna("")
    return evidence_of(rows)


@pytest.fixture(scope="module")
def pictures(evidence):
    points = [CurvePoint(step=s, tokens=s * 1e6, flops=s * 1e16, loss=9 / s) for s in range(1, 400)]
    return {p.slug: p for p in draw_pictures(evidence, {"t1": points, "t2": points[:1]})}


def words_of(picture):
    root = ET.fromstring(render(picture).svg)
    return ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (2.8e3, 9e4),
        (1e4, 2e4),
        (1.0e4, 1.3e4),
        (1.1e11, 1.9e11),
        (1e11, 1e12),
        (1e18, 1e25),
        (3, 4),
    ],
)
def test_ticks_are_few_round_and_inside_at_any_span(low, high):
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert all(low * 0.99 <= t <= high * 1.01 for t in ticks)
    assert all(float(f"{t:.2e}") == pytest.approx(t) for t in ticks)


def test_a_range_without_width_still_gets_an_axis():
    low, high = padded([1e11, 1e11])
    assert low < 1e11 < high
    assert len(log_ticks(low, high)) >= 3


def test_labels_are_moved_apart_in_their_order_and_stay_inside():
    places, heights = [0.5, 0.5, 0.52, 0.98, 0.0], [0.05, 0.1, 0.05, 0.05, 0.05]
    moved = spread_labels(places, heights, low=0.0, high=1.0)
    order = np.argsort(moved)
    for below, above in itertools.pairwise(order):
        assert moved[above] - moved[below] >= (heights[below] + heights[above]) / 2 - 1e-4
    assert all(h / 2 - 1e-9 <= m <= 1 - h / 2 + 1e-9 for m, h in zip(moved, heights, strict=True))
    assert list(order) == [4, 0, 1, 2, 3]


def test_labels_that_cannot_fit_share_the_room():
    moved = spread_labels([0.5] * 30, [0.1] * 30, low=0.0, high=1.0)
    assert np.allclose(np.diff(sorted(moved)), 1 / 30, atol=1e-6)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [BLUE, VERMILION, GREEN, PURPLE, INK, MUTED, *RAMP])
def test_every_colour_of_a_line_stands_out_from_white_paper(colour):
    assert contrast(colour, PAPER) >= 3.0


@pytest.mark.parametrize(
    "colour", [*(DARK[c] for c in (BLUE, VERMILION, GREEN, PURPLE, INK, MUTED)), *RAMP_DARK]
)
def test_every_colour_of_a_line_stands_out_on_a_dark_page(colour):
    assert contrast(colour, DARK[PAPER]) >= 3.0


SEEN_BY = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
"""Linear RGB as it is seen without one kind of cone (Machado, Oliveira and Fernandes 2009)."""
TOGETHER = {"BLUE": BLUE, "VERMILION": VERMILION, "GREEN": GREEN, "PURPLE": PURPLE}
TOGETHER |= {"INK": INK, "MUTED": MUTED}


def lab(colour, seen_by="all cones"):
    """CIE L*a*b* (D65) of a colour as a reader sees it."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(SEEN_BY[seen_by]) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175]]
    to_xyz.append([0.0193339, 0.119192, 0.9503041])
    xyz = np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(one, other):
    """Difference of two L*a*b* colours (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    chroma = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * math.sqrt(chroma**7 / (chroma**7 + 25**7))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    d_hue = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1.0
    for weight, times, shift in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63)):
        t += weight * math.cos(math.radians(times * hue + shift))
    s_light = 1 + 0.015 * (light - 50) ** 2 / math.sqrt(20 + (light - 50) ** 2)
    s_chroma, s_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turned = 60 * math.exp(-(((hue - 275) / 25) ** 2))
    rotation = -2 * math.sqrt(chroma**7 / (chroma**7 + 25**7)) * math.sin(math.radians(turned))
    x, y, z = (l2 - l1) / s_light, (c2 - c1) / s_chroma, d_hue / s_hue
    return math.sqrt(x * x + y * y + z * z + rotation * y * z)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_of_colours_is_that_of_its_paper(one, other, difference):
    assert ciede2000(one, other) == pytest.approx(difference, abs=6e-5)


@pytest.mark.parametrize("page", ["light", "dark"])
@pytest.mark.parametrize("reader", SEEN_BY)
def test_any_two_colours_used_together_differ_for_every_reader(reader, page):
    shown = {n: c if page == "light" else DARK[c] for n, c in TOGETHER.items()}
    for one, other in itertools.combinations(shown, 2):
        far = ciede2000(lab(shown[one], reader), lab(shown[other], reader))
        assert far >= 10, (one, other, far)


@pytest.mark.parametrize("name", ["BLUE", "GREEN", "PURPLE", "INK", "MUTED"])
def test_colours_that_words_are_written_in_can_be_read_on_both_pages(name):
    assert contrast(TOGETHER[name], PAPER) >= 4.5
    assert contrast(DARK[TOGETHER[name]], DARK[PAPER]) >= 4.5


def test_the_ramp_of_compute_is_ordered_in_grey_too():
    for ramp in (RAMP, RAMP_DARK):
        assert len(set(ramp)) == len(ramp)
        assert [luminance(c) for c in ramp] == sorted(luminance(c) for c in ramp)


def test_levels_and_lines_are_told_apart_without_colour():
    assert len(set(MARKERS)) == len(MARKERS) >= 9
    assert len({str(d) for d in DASHES}) == len(DASHES) >= 4


@pytest.mark.parametrize(
    ("slug", "labels"),
    [
        ("isoflop", ["Parameters N (total)", "Held-out loss"]),
        ("surface", ["Parameters N (total)", "Training tokens D"]),
        ("scaling", ["Training compute C (FLOPs)", "Held-out loss"]),
        ("ratio", ["Training compute C (FLOPs)", "Tokens per parameter D/N"]),
        ("waste", ["Compute wasted (%)"]),
        ("residuals", ["Parameters N", "Measured over fitted loss (%)"]),
        ("training", ["Training loss (nats per token)"]),
    ],
)
def test_axes_name_their_quantity_and_unit(pictures, slug, labels):
    words = words_of(pictures[slug])
    for label in labels:
        assert label in words


def test_the_ratio_picture_marks_target_sample_and_landmarks(pictures):
    words = " ".join(words_of(pictures["ratio"]))
    for word in ("target", "compute sampled", "Hoffmann 1, 2 (20)", "Besiroglu", "this sweep"):
        assert word in words


def test_every_run_is_a_named_point_and_excluded_ones_are_hollow(pictures, evidence):
    for slug in ("isoflop", "surface", "scaling", "ratio"):
        picture = pictures[slug]
        names = [name.text for group in picture.names.values() for name in group]
        assert len(names) == len(evidence.runs)
        root = ET.fromstring(render(picture).svg)
        titles = [t.text for t in root.iter(f"{SVG}title")]
        assert sorted(titles) == sorted(names)
        (out,) = [g for g in root.iter(f"{SVG}g") if re.search(r"-out$", g.get("id", ""))]
        drawn = [e for e in out.iter() if e.tag in (f"{SVG}use", f"{SVG}path") and e.get("style")]
        assert all("fill: none" in e.get("style") for e in drawn)
        assert any("left out: diverged" in name for name in names)


def test_a_run_above_the_chart_is_drawn_at_its_edge_and_said(pictures):
    assert any("1 run above the chart" in w for w in words_of(pictures["isoflop"]))


def test_the_frontier_is_dashed_beyond_the_largest_run(pictures):
    ax = pictures["scaling"].figure.axes[0]
    lines = [line for line in ax.lines if line.get_color() == VERMILION]
    solid, dashed = sorted(lines, key=lambda line: line.get_xdata()[0])
    assert solid.get_linestyle() == "-"
    assert dashed.get_linestyle() == "--"
    assert solid.get_xdata()[-1] <= 1.03e20
    assert dashed.get_xdata()[-1] == pytest.approx(1e21)


def test_without_levels_the_frontier_still_crosses_the_runs_and_decades_are_told_apart():
    rows = pd.concat(
        [
            frame((C,), 5, levels=False).iloc[[i % 5]]
            for i, C in enumerate(np.geomspace(1.3e18, 7e19, 40))
        ]
    )
    found = evidence_of(rows)
    assert not found.levels
    pictures = {p.slug: p for p in draw_pictures(found, {})}
    ax = pictures["ratio"].figure.axes[0]
    line = min((v for v in ax.lines if v.get_linewidth() > 2), key=lambda v: v.get_xdata()[0])
    assert line.get_xdata()[0] == pytest.approx(1.3e18)
    assert line.get_ydata()[0] == pytest.approx(BESIROGLU.optimum(1.3e18).tokens_per_parameter, 0.5)
    words = words_of(pictures["isoflop"])
    assert "10¹⁸ to 10¹⁹ FLOPs" in words
    assert "10¹⁹ to 10²⁰ FLOPs" in words
    assert not [row for row in pictures["ratio"].rows if np.isnan(row[-1])]


def test_the_waste_curve_agrees_with_the_near_optimal_bands(evidence):
    for name, share in (("waste_1pct", 0.01), ("waste_5pct", 0.05)):
        band = np.array(evidence.answer.near_optimal[name])
        assert evidence.waste(band) == pytest.approx([share, share], rel=1e-6)
    assert evidence.waste(np.array([evidence.answer.tokens_per_parameter])) == pytest.approx(0)


def test_doubling_the_ratio_wastes_about_four_per_cent():
    """(alpha + beta) (ln 2)^2 / 8 for Chinchilla's exponents."""
    found = evidence_of(frame(noise=0.0))
    waste = found.waste(np.array([2 * found.answer.tokens_per_parameter]))[0]
    assert waste == pytest.approx(0.042, abs=0.003)


def test_a_frontier_between_rows_passes_through_them(evidence):
    inside = [r for r in evidence.frontier if r.flops != 3e20]
    flops = np.array([r.flops for r in inside])
    assert evidence.along_frontier("params", flops) == pytest.approx([r.params for r in inside])


def test_the_same_figure_gives_the_same_bytes_and_no_metadata(evidence):
    first, second = (draw_pictures(evidence, {})[1] for _ in range(2))
    one, other = render(first), render(second)
    assert one == other
    assert b"metadata" not in one.svg
    assert b"Matplotlib" not in one.png
    assert one.png[:8] == b"\x89PNG\r\n\x1a\n"


def test_drawing_leaves_matplotlib_s_settings_as_they_were(evidence):
    before = dict(mpl.rcParams)
    render(draw_pictures(evidence, {})[0])
    assert dict(mpl.rcParams) == before


def test_an_inline_picture_follows_the_page_s_colours_and_keeps_names_literal(evidence):
    picture = draw_pictures(evidence, {})[1]
    inline = render(picture).inline
    assert not re.findall(r'style="[^"]*#[0-9a-f]{6}', inline)
    light, dark = theme_css()
    used = set(re.findall(r"var\((--\w+)\)", inline))
    for rules in (light, dark):
        assert used <= {r.split(":")[0] for r in rules.split(";")}


def test_a_byte_model_s_landmarks_are_turned_into_bytes():
    facts = SweepFacts(name="s", tokenizer="byte", bytes_per_token=1.0)
    found = evidence_of(frame(), sweep=facts)
    picture = next(p for p in draw_pictures(found, {}) if p.slug == "ratio")
    words = " ".join(words_of(picture))
    assert "20 bytes" in words
    assert "80 bytes" in words
    assert "a byte is about a quarter of a BPE token" in picture.caption


@pytest.mark.parametrize(
    "rows",
    [
        frame(levels=False),
        frame((1e18,), 5),
        frame((1e18, 2e18), 2),
        frame(tuple(np.geomspace(1e17, 1e21, 14)), 4),
        frame((1e18,), 1),
    ],
    ids=["no levels", "one level", "tiny", "many levels", "one run"],
)
def test_any_table_can_be_drawn(rows):
    found = evidence_of(rows)
    for picture in draw_pictures(found, {}):
        assert render(picture).png
        assert picture.alt
        assert all(len(r) == len(picture.columns) for r in picture.cells())


def test_text_from_a_table_never_enters_a_drawing():
    rows = frame()
    rows["level"] = rows["level"].map({0: "$\\frac", 1: "<b>", 2: "\u6f22"})
    rows["trial_id"] = "漢$x$" + rows["trial_id"]
    found = evidence_of(rows)
    for picture in draw_pictures(found, {}):
        assert "frac" not in " ".join(words_of(picture))


def test_published_laws_give_their_papers_numbers():
    ratios = {law.name: law.ratio for law in PUBLISHED}
    assert ratios["Hoffmann 1, 2 (20)"](1e21) == 20.0
    assert ratios["Hoffmann 3"](5.76e23) == pytest.approx(58.9, abs=0.1)
    assert ratios["Besiroglu"](1e19) == pytest.approx(24.2, abs=0.1)
    assert ratios["Besiroglu"](1e21) == pytest.approx(21.6, abs=0.1)
    small, large = ratios["Kaplan"](1e19), ratios["Kaplan"](1e21)
    assert np.log(large / small) / np.log(100) == pytest.approx(-0.46)
