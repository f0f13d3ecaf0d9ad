"""Every comparison of a report, and which of them may be made.

All contrasts of a ladder are one family for mIoU and one for time. Where two rungs differ in [system] alone
the mIoU is to be kept: only a loss matters there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench import record, stats
from bench.ladder import Ladder, changed, most_frequent
from bench.sheet import shown

MUST_AGREE = (*(name for name in record.MUST_MATCH if name != "protocol"), "git_commit", "git_dirty")


@dataclass(frozen=True)
class Contrasts:
    """By (rung, other rung): points of mIoU, and time to train as a ratio. `kept`: the pairs that differ in
    [system] alone, whose mIoU is judged by non-inferiority."""

    miou: Mapping[tuple[str, str], stats.Contrast]
    time: Mapping[tuple[str, str], stats.Contrast]
    miou_spread: stats.Spread
    time_spread: stats.Spread
    kept: frozenset[tuple[str, str]]


def judge(ladder: Ladder) -> Contrasts:
    """All contrasts the report shows, as one family for mIoU and one for time."""
    pairs = _pairs(ladder)
    miou = {rung.name: rung.values("final_miou") for rung in ladder.all}
    time = {rung.name: rung.values("train_s") for rung in ladder.all}
    logs = [[math.log(seconds) for seconds in time[rung.name]] for rung in ladder.rungs]
    spread, pace = stats.pool([miou[rung.name] for rung in ladder.rungs]), stats.pool(logs)
    kept = [i for i, pair in enumerate(pairs) if _systems(ladder, pair)]
    gained = stats.differences([(miou[a], miou[b]) for a, b in pairs], spread, kept=kept)
    spent = stats.ratios([(time[a], time[b]) for a, b in pairs], pace)
    return Contrasts(
        dict(zip(pairs, gained, strict=True)),
        dict(zip(pairs, spent, strict=True)),
        spread,
        pace,
        frozenset(pairs[i] for i in kept),
    )


def _systems(ladder: Ladder, pair: tuple[str, str]) -> bool:
    """Whether two rungs differ in [system] alone."""
    rung, other = (each.recipe for name in pair for each in ladder.all if each.name == name)
    keys = changed(rung, other)
    return bool(keys) and all(key.startswith("system.") for key in keys)


def _pairs(ladder: Ladder) -> list[tuple[str, str]]:
    steps = ladder.steps()
    pairs = [(rung, other(rung)) for other in (ladder.predecessor, ladder.base) for rung in ladder.all]
    pairs += [(step, before) for before, step in zip(steps, steps[1:], strict=False)]
    return list(dict.fromkeys((rung.name, other.name) for rung, other in pairs if other is not None))


def disagreements(ladder: Ladder) -> dict[str, list[str]]:
    """Rung name -> what its records have otherwise than most of the table's, in words."""
    runs = [run for rung in ladder.all for run in rung.runs]
    usual = {name: most_frequent(shown(run.record[name]) for run in runs) for name in MUST_AGREE}
    found: dict[str, list[str]] = {}
    for rung in ladder.all:
        for name in MUST_AGREE:
            others = {shown(run.record[name]) for run in rung.runs} - {usual[name]}
            for other in sorted(others):
                found.setdefault(rung.name, []).append(f"{name} {other} (most: {usual[name]})")
    return found


def mixed(ladder: Ladder, pair: tuple[str, str]) -> bool:
    """Whether the records of two rungs come from machines that may not be compared."""
    runs = [run for rung in ladder.all if rung.name in pair for run in rung.runs]
    fields = [name for name in record.MUST_MATCH if name != "protocol"]
    return any(len({shown(run.record[name]) for run in runs}) > 1 for name in fields)
