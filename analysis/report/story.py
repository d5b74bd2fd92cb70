"""A report in words: what the ratio is, how sure, from which runs, at what cost, and why.

In: an `Evidence`. Out: a `Story` of plain sentences and tables, the same for every format. A fit
that was refused has no ratio in any sentence: the rule's words and what to do stand in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.report.evidence import Evidence
from analysis.report.fit_tables import (
    CONVENTION_WORDS,
    convention_table,
    estimator_table,
    frontier_table,
    interval_table,
    level_table,
    published_table,
    sensitivity_table,
)
from analysis.report.record_tables import checklist_table, next_table, recipe_table
from analysis.report.run_tables import budget_table, exclusion_table, pairs_table, run_table
from analysis.report.text_table import Table
from analysis.report.verdict import STATUS_WORDS, CheckLine, advice, checks, meaning
from analysis.report.words import (
    confidence,
    count,
    duration,
    interval,
    known,
    listed,
    percent,
    plural,
    power,
    si,
    significant,
)


@dataclass(frozen=True, kw_only=True)
class Story:
    """A report in plain text, before any format."""

    title: str
    """Of the page."""
    status: str
    """`identified`, `weak` or `not_identified`."""
    verdict: str
    """The status as it is printed."""
    answer: str
    """The answer in one sentence."""
    ratio: str
    """The ratio alone; '' when there is none."""
    ratio_interval: str
    """Its interval with its confidence; '' when there is none."""
    figures: tuple[tuple[str, str, str], ...]
    """(what, value, remark) of the key numbers."""
    support: tuple[str, ...]
    """From which runs, at what cost, in which unit: one sentence each."""
    verdict_meaning: str
    """What the verdict says."""
    checks: tuple[CheckLine, ...]
    """The rules, failed ones first."""
    advice: tuple[str, ...]
    """What to do about the failed ones."""
    warnings: tuple[str, ...]
    """What else the fit noted."""
    waste: tuple[str, ...]
    """What being wrong costs."""
    caveats: tuple[str, ...]
    """Limits of the answer."""
    tables: dict[str, Table]
    """Tables by name; absent where there is nothing to say."""
    faults: tuple[str, ...]
    """Attempts lost and trials given up."""
    examination: tuple[str, ...]
    """Checks of the architecture before the sweep."""
    holdout: tuple[str, ...]
    """How a forecast of the dearest runs from the others went."""
    recipe: tuple[str, ...]
    """Whether the training recipe was checked, and what came of it."""
    next_steps: tuple[str, ...]
    """What to do next, one line each."""
    unfinished: str
    """How far the sweep is while it is not over; '' = it is."""


def tell(evidence: Evidence) -> Story:
    """Put an evidence into words."""
    best, sweep = evidence.answer, evidence.sweep
    tables = {
        "estimators": estimator_table(evidence),
        "levels": level_table(evidence),
        "frontier": frontier_table(evidence),
        "conventions": convention_table(evidence),
        "sensitivity": sensitivity_table(evidence),
        "published": published_table(evidence),
        "intervals": interval_table(evidence),
        "runs": run_table(evidence),
        "exclusions": exclusion_table(evidence),
        "budget": budget_table(evidence),
        "checklist": checklist_table(evidence),
        "recipe": recipe_table(evidence),
        "next": next_table(evidence),
    }
    if sweep is not None:
        tables["setting"] = _setting_table(evidence)
        for name, caption, heading, pairs in (
            ("commands", "Commands", ("Command", "What it does"), tuple(sweep.commands)),
            ("versions", "Versions", ("Library", "Version"), tuple(sweep.versions.items())),
            ("hashes", "Hashes (SHA-256)", ("Of", "Hash"), tuple(sweep.hashes.items())),
        ):
            if pairs:
                tables[name] = pairs_table(caption, heading, pairs)
    return Story(
        title="Compute-optimal tokens per parameter" + (f": {sweep.name}" if sweep else ""),
        status=evidence.status,
        verdict=STATUS_WORDS[evidence.status],
        answer=_answer(evidence),
        ratio=count(best.tokens_per_parameter) if best else "",
        ratio_interval=f"{confidence(best.confidence)} interval {interval((best.low, best.high))}"
        if best
        else "",
        figures=_figures(evidence),
        support=tuple(_support(evidence)),
        verdict_meaning=meaning(evidence),
        checks=checks(evidence),
        advice=advice(evidence),
        warnings=tuple(str(w) for w in evidence.fit.get("warnings") or ()),
        waste=tuple(_waste(evidence)),
        caveats=tuple(_caveats(evidence)),
        tables={name: table for name, table in tables.items() if table is not None},
        faults=tuple(sweep.faults) if sweep else (),
        examination=tuple(sweep.examination) if sweep else (),
        holdout=tuple(_holdout(evidence)),
        recipe=tuple(_recipe(evidence)),
        next_steps=tuple(_next_steps(evidence)),
        unfinished=sweep.unfinished if sweep else "",
    )


def _answer(evidence: Evidence) -> str:
    best = evidence.answer
    if best is None:
        at = f" at {power(evidence.target)} FLOPs" if evidence.target else ""
        reasons = [
            f"{c.get('rule')}: {c.get('message')}"
            for c in evidence.fit.get("checks") or ()
            if not c.get("passed") and c.get("severity", "refuse") == "refuse"
        ]
        words = "; ".join(reasons) or str(evidence.fit.get("message") or "no reason was given")
        return (
            f"NOT IDENTIFIED: these runs do not determine the best number of tokens per "
            f"parameter{at}, and none is given. {words}."
        )
    return (
        f"{_unit(evidence, best.tokens_per_parameter)} per parameter "
        f"({confidence(best.confidence)} interval {interval((best.low, best.high))}; verdict: "
        f"{STATUS_WORDS[evidence.status]}) is compute-optimal at {power(best.flops)} FLOPs: "
        f"train {si(best.params)} parameters on {si(best.tokens)} tokens."
    )


def _unit(evidence: Evidence, ratio: float) -> str:
    return f"{count(ratio)} tokens" + (" (bytes)" if evidence.byte_level else "")


def _figures(evidence: Evidence) -> tuple[tuple[str, str, str], ...]:
    best = evidence.answer
    found: list[tuple[str, str, str]] = []
    if best is not None:
        found += [
            ("Target compute C", power(best.flops), "FLOPs"),
            ("Model to train N", si(best.params), "parameters"),
            ("Tokens to train on D", si(best.tokens), "tokens"),
        ]
        if known(best.loss):
            found.append(("Loss expected", significant(best.loss, 3), evidence.loss_unit or ""))
    elif evidence.target:
        found.append(("Target compute C", power(evidence.target), "FLOPs"))
    used, out = len(evidence.used), len(evidence.excluded)
    found.append(("Runs in the fit", str(used), f"{out} left out" if out else "none left out"))
    spent = evidence.sweep.charged_flops if evidence.sweep else None
    if known(spent):
        time = duration(3600 * (evidence.sweep.slot_hours or 0.0)) if evidence.sweep else ""
        found.append(("Cost", power(spent), f"FLOPs, {time} of training"))
    return tuple(found)


def _support(evidence: Evidence) -> list[str]:
    used = [r for r in evidence.used if known(r.flops) and known(r.params)]
    sentences = []
    if used:
        flops, params = [r.flops for r in used], [r.params for r in used]
        levels = len(evidence.levels)
        where = f" at {plural(levels, 'compute level')}" if levels else ""
        sentences.append(
            f"From {plural(len(used), 'run')}{where}, {_span(min(flops), max(flops))} "
            f"FLOPs, with {si(min(params))} to {si(max(params))} parameters and "
            f"{count(min(r.ratio for r in used))} to {count(max(r.ratio for r in used))} tokens "
            "per parameter."
        )
    if evidence.excluded:
        reasons: dict[str, int] = {}
        for run in evidence.excluded:
            reasons[run.excluded] = reasons.get(run.excluded, 0) + 1
        sentences.append(
            f"{plural(len(evidence.excluded), 'run')} left out: "
            + "; ".join(f"{n} because {reason}" for reason, n in reasons.items())
            + "."
        )
    sentences += _cost_words(evidence)
    best = evidence.answer
    if best is not None and known(best.extrapolation) and best.extrapolation > 1.05:
        sentences.append(
            f"The target is {significant(best.extrapolation, 2)} times the compute of the largest "
            "run: the answer is an extrapolation."
        )
    if evidence.byte_level:
        text = "A token here is one byte, about a quarter of a BPE token"
        if best is not None:
            quarter = count(best.tokens_per_parameter / evidence.tokens_per_bpe_token, 2)
            text += f": {count(best.tokens_per_parameter)} bytes per parameter compare with "
            text += f"about {quarter} BPE tokens per parameter"
        sentences.append(text + ".")
    return sentences


def _span(low: float, high: float) -> str:
    return power(low) if power(low) == power(high) else f"{power(low)} to {power(high)}"


def _cost_words(evidence: Evidence) -> list[str]:
    sweep = evidence.sweep
    if sweep is None or not known(sweep.charged_flops):
        return []
    text = f"The sweep cost {power(sweep.charged_flops)} FLOPs"
    if known(sweep.budget_flops) and sweep.budget_flops:
        share = percent((sweep.charged_flops or 0.0) / sweep.budget_flops, 3)
        text += f", {share} of its budget of {power(sweep.budget_flops)}"
    if known(sweep.slot_hours) and sweep.slot_hours:
        text += f", {duration(3600 * sweep.slot_hours)} of training time"
    if known(sweep.wall_s):
        text += f" within {duration(sweep.wall_s)}"
    if known(sweep.price):
        text += f", {count(sweep.price)} {sweep.currency_note}".rstrip()
    return [text + "."]


def _waste(evidence: Evidence) -> list[str]:
    best = evidence.answer
    if best is None:
        return []
    bands = [
        f"any ratio from {interval(best.near_optimal[name])} wastes at most {share} %"
        for name, share in (("waste_1pct", 1), ("waste_5pct", 5))
        if name in best.near_optimal
    ]
    sentences = []
    if bands:
        words = listed(bands)
        sentences.append(
            f"The optimum is flat. At {power(best.flops)} FLOPs, {words} of the compute."
        )
    ends = (
        evidence.waste(np.array([best.low, best.high]))
        if known(best.low) and best.low > 0
        else None
    )
    if ends is not None:
        sentences.append(
            f"If the true ratio lay at an end of the interval, following this answer would waste "
            f"{_about(float(max(ends)))} of the compute."
        )
    return sentences


def _about(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"about {percent(share)}"


def _caveats(evidence: Evidence) -> list[str]:
    best = evidence.answer
    words = []
    if best is not None and known(best.extrapolation):
        words.append(
            f"Extrapolation: the target is {significant(best.extrapolation, 2)} times the largest "
            "run's compute."
            if best.extrapolation > 1.05
            else "Extrapolation: none, the target lies within the compute that was sampled."
        )
    laws = evidence.fit.get("laws") or {}
    ratios = {n: v.get("tokens_per_parameter") for n, v in laws.items()}
    if best is not None and len([r for r in ratios.values() if known(r)]) > 1:
        named = [f"{count(r)} ({name})" for name, r in ratios.items() if known(r)]
        words.append(f"Form of the law: at the target the fitted laws give {listed(named)}.")
    words += [
        "Data: the best ratio belongs to this text and this tokenizer. Published exponents of N "
        "range from 0.45 to 0.58 between corpora alone.",
        "Recipe: it belongs to these learning rates, batches and schedules too. A recipe that "
        "suits large models less than small ones moves the ratio.",
        "Loss: held-out loss is not the score on a task.",
    ]
    surface, losses = evidence.surface, [r.loss for r in evidence.used if known(r.loss)]
    if surface is not None and losses and min(losses) > 1.2 * surface.E:
        words.append(
            f"Floor: no run is within 20 % of the fitted irreducible loss E = "
            f"{significant(surface.E, 3)}, so E is poorly known. The ratio does not depend on it."
        )
    epochs = [r.row.get("epochs") for r in evidence.used]
    most = max((e for e in epochs if known(e)), default=None)
    if most is not None:
        words.append(
            f"Repetition: the longest run passes over the data {significant(most, 2)} times."
            if most > 1
            else "Repetition: every run saw each token at most once."
        )
    seeds = {str(r.row.get("seed")) for r in evidence.used if r.row.get("seed") is not None}
    if seeds:
        words.append(f"Seeds: the runs use {plural(len(seeds), 'seed')}.")
    noise = evidence.fit.get("noise") or {}
    if known(noise.get("sd")):
        words.append(
            f"Noise: {percent(noise['sd'])} of the loss per run "
            f"(from {noise.get('source', 'the fit')})."
        )
    return words


def _holdout(evidence: Evidence) -> list[str]:
    """The forecast of the dearest level in words; its ratio only where there is an answer."""
    found = evidence.fit.get("holdout")
    if not found:
        return []
    if not found.get("runs"):
        return [
            f"A forecast of the {plural(found['n_held_out'], 'dearest run')} was not possible: the "
            f"{plural(found['n_fitted'], 'cheaper run')} carry no law."
        ]
    share = confidence(found["confidence"])
    lines = [
        f"A test of extrapolation: the {plural(found['n_held_out'], 'dearest run')} "
        f"({power(found['flops'])} FLOPs) were held out and forecast from the "
        f"{found['n_fitted']} cheaper ones. The forecast missed their losses by "
        f"{percent(found['rms'])} (root mean square; mean {_signed(found['bias'])}), and "
        f"{percent(found['inside'], 3)} of them lie inside its {share} prediction interval."
    ]
    ends, measured = found.get("interval"), found.get("measured_tokens_per_parameter")
    if evidence.answer is not None and ends and known(measured):
        inside = "inside" if ends[0] <= measured <= ends[1] else "outside"
        lines.append(
            f"Its D/N there was {count(found['tokens_per_parameter'])} ({share} interval "
            f"{interval(ends)}); the level's own minimum is at {count(measured)}, {inside}."
        )
    return lines


def _signed(share: float) -> str:
    return ("+" if share > 0 else "−") + percent(abs(share))


def _recipe(evidence: Evidence) -> list[str]:
    sweep = evidence.sweep
    if sweep is None:
        return []
    if sweep.recipe_checks:
        return [
            "Before the sweep, planned runs were trained at half and at twice their learning "
            "rate too. A recipe that is wrong by size bends every curve of this report: the "
            "recipe's own rate (1×) should lie at or near the bottom of each curve."
        ]
    if not sweep.recipe:
        return []
    return [
        f"Not checked. Every run took the recipe as given ({sweep.recipe}). With "
        "`recipe: {verify: 2}` in the budget, a sweep first trains two of its sizes at half and "
        "at twice their learning rate and goes on only if the recipe's own holds."
    ]


def _next_steps(evidence: Evidence) -> list[str]:
    steps = list(evidence.sweep.next_steps) if evidence.sweep else []
    if evidence.sweep is None:
        table = "losses.csv"
        if evidence.answer is not None:
            steps.append(f"`sweep predict {table} --flops C` gives N, D and loss at any compute C.")
        else:
            steps.append("Add the runs that the failed rules ask for, and fit the table again.")
    return steps


def _setting_table(evidence: Evidence) -> Table:
    sweep = evidence.sweep
    assert sweep is not None
    convention = sweep.convention or CONVENTION_WORDS.get(evidence.table.convention, "")
    per_token = f"{significant(sweep.bytes_per_token, 3)}" if known(sweep.bytes_per_token) else ""
    pairs = [
        ("Started", sweep.started),
        ("Models", sweep.family),
        ("Recipe", sweep.recipe),
        ("Forecast", sweep.forecast),
        ("Corpus", sweep.corpus),
        ("Tokenizer", sweep.tokenizer),
        ("Bytes per token", per_token),
        ("Counting", convention),
        ("MLflow", sweep.mlflow_hint),
    ]
    return pairs_table("Setting", ("What", "Value"), [(k, v) for k, v in pairs if v])
