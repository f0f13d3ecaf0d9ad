"""What `segbench check` found, in words: for a terminal, as markdown, as JSON, as annotations of GitHub.

Every form says the same: a row a rung with its numbers, interval and verdict, then what was not judged or
left out and why, then the conclusion that the exit code stands for.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench import REGRESSION, check, stats
from bench.check import Comparison, Family, Rung
from bench.sheet import Table, number, signed

SPEED = "images_per_s"
NAMES = {SPEED: "throughput", "final_miou": "mIoU"}
TITLES = {SPEED: "Throughput, img/s", "final_miou": "Final mIoU, points"}
NEEDED = (
    f"both folders need {stats.FEWEST} finished seeds of a rung, from one machine: segbench run "
    f"--seeds {stats.FEWEST} --results DIR"
)
LEVELS = {"slower": "error", "worse": "error", "cannot tell": "warning", None: "warning"}


# ---- the conclusion ----------------------------------------------------------------------------


def conclude(comparison: Comparison) -> tuple[str, str]:
    """What the exit code stands for, and what to do about it; the latter is empty where all is fine."""
    if comparison.code == REGRESSION:
        unjudged = sum(len(family.told(None)) for family in comparison.families)
        parts = [_regression(comparison, family) for family in comparison.families]
        parts.append(f"{unjudged} could not be judged" if unjudged else "")
        return (
            "; ".join(part for part in parts if part),
            "where it is meant, say so to whoever merges it; else look at what the change made slower"
            if _paired(comparison)
            else "measure again to rule the machine out; where it is meant, make these records the baseline",
        )
    if not comparison.code:
        return f"No regression was found: {_tally(comparison)}", ""
    if not comparison.strict or comparison.blind:
        return (
            f"nothing could be judged: {_obstacle(comparison)}",
            comparison.hint or NEEDED,
        )
    if _paired(comparison):
        hint = "more pairs show smaller effects: --pairs N"
    elif any(family.told(None) for family in comparison.families):
        hint = NEEDED
    else:
        hint = "more seeds show smaller effects: segbench run --seeds N"
    return f"not every rung could be judged, and --strict was given: {_tally(comparison)}", hint


def _paired(comparison: Comparison) -> bool:
    return any(family.paired for family in comparison.families)


def _regression(comparison: Comparison, family: Family) -> str:
    names = [_label(comparison, rung) for rung in family.told(*check.REGRESSIONS)]
    if not names:
        return ""
    what = "slower" if family.field == SPEED else "worse in mIoU"
    are = "are" if len(names) > 1 else "is"
    return f"{len(names)} of {len(family.rungs)} rungs {are} {what} than the baseline: {', '.join(names)}"


def _tally(comparison: Comparison) -> str:
    """How often each verdict was given, table by table, and what may have gone unseen."""
    parts = []
    for family in comparison.families:
        counts = Counter(_verdict(rung.contrast.verdict) for rung in family.rungs)
        part = f"{_name(family)} {', '.join(f'{count} {told}' for told, count in counts.items())}"
        if doubtful := family.told("cannot tell"):
            worst = min(doubtful, key=lambda rung: rung.contrast.smallest or 0.0)
            part += f" (a loss short of {_smallest(family, worst)} may have gone unseen)"
        parts.append(part)
    return "; ".join(parts)


def _obstacle(comparison: Comparison) -> str:
    """The first reason why there is no verdict at all; a rung on one side alone says least."""
    missing = [each.why for each in comparison.left_out if each.name == "."]
    if missing:
        return " and ".join(missing)
    families = [family for family in comparison.families if family.field == comparison.blind]
    found = [reason for family in families for reason in _unjudged(comparison, family)]
    reasons = sorted(found, key=lambda reason: check.ABSENT in reason)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


# ---- the parts ---------------------------------------------------------------------------------


def shown(comparison: Comparison) -> list[Family]:
    """The families that are worth a table: those in which something was compared."""
    return [family for family in comparison.families if any(rung.new for rung in family.rungs)]


def title(family: Family) -> str:
    """What the table is called."""
    return TITLES[family.field] + (f": {family.ladder}" if family.ladder else "")


def _name(family: Family) -> str:
    return NAMES[family.field] + (f" of {family.ladder}" if family.ladder else "")


def table(comparison: Comparison, family: Family) -> Table:
    """A row a rung: the values of both sides, their ratio or difference with interval and verdict."""
    change = "ratio" if family.field == SPEED else "difference"
    head = ["rung", "n", "baseline", "n", "results", change, "verdict", "shows from"]
    rows = [
        [
            _label(comparison, rung),
            str(len(rung.old)),
            _mean(rung.old),
            str(len(rung.new)),
            _mean(rung.new),
            _change(family, rung),
            _verdict(rung.contrast.verdict),
            _smallest(family, rung),
        ]
        for rung in family.rungs
    ]
    return Table(head, rows)


def legend(family: Family) -> str:
    """How the table came about."""
    if family.paired:
        return _legend_of_pairs(family)
    if not family.spread.freedom:
        return "A single seed shows no spread: there is no interval and no verdict."
    if family.field == SPEED:
        std, edge = f"{100 * family.spread.std:.1f} %", 1 - family.limit
        text = f"Ratio: results over baseline. SLOWER: the whole interval below {edge:g}, FASTER: above "
        text += f"1 / {edge:g}, SAME: between them."
    else:
        std = f"{family.spread.std:.2f} points"
        text = "Difference: results less baseline. WORSE: the whole interval below "
        text += f"−{family.limit:g}, NOT WORSE: above it."
    return (
        f"{text} Intervals: Student's t on the deviation pooled over all rungs and both sides ({std}, "
        f"{family.spread.freedom} degrees of freedom), Holm's correction over the table. Shows from: the "
        "smallest loss that so many runs show four times in five."
    )


def _legend_of_pairs(family: Family) -> str:
    edge, pairs = 1 - family.limit, len(family.rungs[0].new)
    return (
        f"Ratio: results over baseline, from {pairs} pairs of processes that took steps in turn. SLOWER: the "
        f"whole interval below {edge:g}, FASTER: above 1 / {edge:g}, SAME: between them. Interval: Student's "
        f"t over the pairs, whose ratios spread by {100 * family.spread.std:.1f} %; the chance that any rung "
        f"is called SLOWER that is not slower by more than {100 * family.limit:g} % is 1 % at most. "
        "Shows from: the smallest loss that so many pairs show four times in five."
    )


def remarks(comparison: Comparison) -> list[str]:
    """What was not judged, what was left out, and why; then doubts about the rest."""
    unjudged = [
        f"No verdict on {NAMES[family.field]}: {line}."
        for family in comparison.families
        for line in _unjudged(comparison, family)
    ]
    return [*unjudged, *_left_out(comparison), *comparison.notes]


def _left_out(comparison: Comparison) -> list[str]:
    """Records that take no part, those with the same reason together; not where it is said of their rung."""
    said = {rung.contrast.reason for family in comparison.families for rung in family.rungs}
    reasons: dict[tuple[str, str], list[str]] = {}
    for each in comparison.left_out:
        if each.why not in said:
            reasons.setdefault((each.side, each.why), []).append(each.name)
    return [
        f"The {side}: {why}." if names == ["."] else f"Left out of the {side}: {_few(names)}: {why}."
        for (side, why), names in reasons.items()
    ]


def _unjudged(comparison: Comparison, family: Family) -> list[str]:
    """Rungs without a verdict, those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for rung in family.told(None):
        reasons.setdefault(rung.contrast.reason, []).append(_label(comparison, rung))
    return [f"{_few(names)}: {reason}" for reason, names in reasons.items()]


def _label(comparison: Comparison, rung: Rung) -> str:
    several = len({each.workload for family in comparison.families for each in family.rungs}) > 1
    name = f"{rung.workload}/{rung.recipe}" if several else rung.recipe
    return f"{name} ({rung.where})" if rung.where else name


def _verdict(verdict: str | None) -> str:
    return "not judged" if verdict is None else verdict.upper()


def _mean(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    mean, std = fmean(values), stats.deviation(values)
    digits = 2 if mean < 100 else 1
    return number(mean, digits) + ("" if std is None else f" ± {number(std, digits)}")


def _change(family: Family, rung: Rung) -> str:
    found = rung.contrast
    if math.isnan(found.delta):
        return "–"
    show = (lambda value: f"{value:.3f}") if family.field == SPEED else signed
    interval = "" if found.low is None or found.high is None else f" [{show(found.low)}, {show(found.high)}]"
    return show(found.delta) + interval


def _smallest(family: Family, rung: Rung) -> str:
    if (smallest := rung.contrast.smallest) is None:
        return "–"
    return f"−{100 * (1 - smallest):.1f} %" if family.field == SPEED else signed(smallest)


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---- the forms ---------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """A section that may stand in a report or in the summary of a workflow."""
    said, hint = conclude(comparison)
    parts = [f"## segbench check\n\n**{said}.**{f' To do: {hint}.' * bool(hint)}\n"]
    for family in shown(comparison):
        parts.append(f"### {title(family)}\n\n{table(comparison, family).markdown()}\n{legend(family)}\n")
    if told := remarks(comparison):
        parts.append("".join(f"- {line}\n" for line in told))
    return "\n".join(parts)


def to_json(comparison: Comparison) -> str:
    """All of it as one object; what is unknown is null."""
    said, hint = conclude(comparison)
    document = {
        "exit_code": comparison.code,
        "conclusion": said,
        "hint": hint,
        "baseline": str(comparison.baseline),
        "results": str(comparison.results),
        "strict": comparison.strict,
        "tables": {
            " ".join((family.field, family.ladder)).strip(): _family(family) for family in comparison.families
        },
        "left_out": [
            {"side": each.side, "record": each.name, "why": each.why} for each in comparison.left_out
        ],
        "notes": list(comparison.notes),
    }
    return json.dumps(document, indent=1, allow_nan=False)


def _family(family: Family) -> dict[str, Any]:
    return {
        "limit": family.limit,
        "pooled_std": None if math.isnan(family.spread.std) else family.spread.std,
        "degrees_of_freedom": family.spread.freedom,
        "rungs": [
            {
                "workload": rung.workload,
                "recipe": rung.recipe,
                "where": rung.where,
                "baseline": _values(rung.old),
                "results": _values(rung.new),
                "ratio" if family.field == SPEED else "difference": (
                    None if math.isnan(rung.contrast.delta) else rung.contrast.delta
                ),
                "low": rung.contrast.low,
                "high": rung.contrast.high,
                "smallest": rung.contrast.smallest,
                "verdict": rung.contrast.verdict,
                "reason": rung.contrast.reason,
            }
            for rung in family.rungs
        ],
    }


def _values(values: Sequence[float]) -> dict[str, Any]:
    mean = fmean(values) if values else None
    return {"n": len(values), "mean": mean, "std": stats.deviation(values), "values": list(values)}


def annotate(comparison: Comparison) -> str:
    """Workflow commands of GitHub, what matters most first: it shows the first ten of each level."""
    said, hint = conclude(comparison)
    lines = [("error" if comparison.code else "notice", f"{said} ({hint})" if hint else said)]
    for family in comparison.families:
        for rung in family.rungs:
            change = f"{NAMES[family.field]} {'× ' * (family.field == SPEED)}{_change(family, rung)}"
            what = rung.contrast.reason if rung.contrast.verdict is None else change
            told = f"{_label(comparison, rung)}: {_verdict(rung.contrast.verdict)}, {what}"
            lines.append((LEVELS.get(rung.contrast.verdict, "notice"), told))
    if left := _left_out(comparison):
        lines.append(("warning", "\n".join(left)))
    lines.sort(key=lambda line: ("error", "warning", "notice").index(line[0]))
    return "\n".join(_command(level, told) for level, told in lines)


def _command(level: str, text: str) -> str:
    """GitHub ends a command at the end of the line and reads % as an escape."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title=segbench check::{escaped}"
