"""The verdict in words: what each rule is, how it came out, what to do about it.

In: an `Evidence`. Out: plain sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.evidence import Evidence

STATUS_WORDS = {"identified": "IDENTIFIED", "weak": "WEAK", "not_identified": "NOT IDENTIFIED"}
"""The verdicts as they are printed."""
RULES = {
    "R1": ("Enough different runs", "Add model sizes or compute levels."),
    "R2": (
        "Optimum inside the grid",
        "Add smaller or larger models at the levels named above, so that each curve turns up at "
        "both ends.",
    ),
    "R3": (
        "Wide enough, target near enough",
        "Add a cheaper or a dearer level, or ask for a target nearer to the largest run.",
    ),
    "R4": (
        "Interval narrow enough",
        "Add runs at ratios far from the best one, another compute level, or seeds.",
    ),
    "R5": (
        "No fitted number at a limit",
        "Widen the range of sizes and of tokens, so that both terms of the law can be seen.",
    ),
    "R6": ("The fit is stable", "Add runs: a few of them decide the fit alone."),
    "R7": (
        "The law fits the runs",
        "Look at the residuals; leave out the cheapest level or check its training recipe.",
    ),
    "R8": (
        "The runs are comparable",
        "Use one tokenizer, one precision and one recipe; give every run enough steps.",
    ),
    "R9": ("The noise is measured", "Repeat two or three runs with other seeds."),
}
"""Each rule in words, and what to do when it fails."""


@dataclass(frozen=True, kw_only=True)
class CheckLine:
    """One rule's outcome."""

    rule: str
    """`R1` to `R9`."""
    name: str
    """The rule in words."""
    outcome: str
    """`passed`, `refused`, `weak` or `note`."""
    message: str
    """What was found."""


def meaning(evidence: Evidence) -> str:
    """What the verdict says."""
    if evidence.status == "identified":
        return (
            "Every rule that could refuse or weaken the answer passed: the runs carry this ratio, "
            "within its interval."
        )
    if evidence.status == "weak":
        return (
            "The runs point to this ratio, but not firmly: treat it as provisional until the "
            "points marked weak below are mended."
        )
    return (
        "The runs cannot carry a ratio, so none is printed. What the failed rules ask for is "
        "listed below; a number without it would be a guess."
    )


def _outcome(check: dict[str, object]) -> str:
    if check.get("passed"):
        return "passed"
    return {"refuse": "refused", "warn": "weak"}.get(str(check.get("severity", "refuse")), "note")


def checks(evidence: Evidence) -> tuple[CheckLine, ...]:
    """Every rule's outcome, failed ones first."""
    order = ("refused", "weak", "note", "passed")
    lines = [
        CheckLine(
            rule=str(c.get("rule", "")),
            name=RULES.get(str(c.get("rule")), (str(c.get("rule", "")), ""))[0],
            outcome=_outcome(c),
            message=str(c.get("message", "")),
        )
        for c in evidence.fit.get("checks") or ()
    ]
    return tuple(sorted(lines, key=lambda line: order.index(line.outcome)))


def advice(evidence: Evidence) -> tuple[str, ...]:
    """What to do about the rules that failed, one line each."""
    failed = [c for c in checks(evidence) if c.outcome in ("refused", "weak", "note")]
    rules = dict.fromkeys(c.rule for c in failed if c.rule in RULES)
    return tuple(f"{rule}: {RULES[rule][1]}" for rule in rules)
