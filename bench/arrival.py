"""When a rung reaches the target, and whether its mean does: two questions, and neither is about its best.

Time to the target is censored: a run that misses it took longer than it trained. So k of n is said, and the
median counts a miss as infinite. The time is that of an evaluation, so the truth lies up to one interval
before. The other question, whether the mean of the last evaluations lies above the target, is a one-sided t
test; what a run scored in between does not count there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench import stats
from bench.contrasts import Contrasts
from bench.ladder import Ladder, Run, Rung
from bench.sheet import Cell, Sheet, clock_unit, number, signed

CLOCKS = ("train_s", "wall_s")


@dataclass(frozen=True)
class Time:
    """Median seconds to the target, infinite where most runs miss it; `gap`: seconds between evaluations."""

    median: float
    gap: float


@dataclass(frozen=True)
class Arrival:
    """`hits` of `runs` reached the target. `times` by clock, of the `timed` runs that were not resumed;
    `mean`: whether the mean of the last evaluations lies above the target, None for a systems rung."""

    hits: int
    runs: int
    timed: int
    times: Mapping[str, Time]
    mean: stats.Contrast | None


def judge(ladder: Ladder, found: Contrasts, target: float) -> dict[str, Arrival]:
    """By the name of the rung. The readings of all learning rungs are one family."""
    learning = [rung for rung in ladder.all if not rung.recipe.is_system]
    groups = [rung.values("final_miou") for rung in learning]
    means = stats.attainments(groups, target, found.miou_spread)
    read = dict(zip((rung.name for rung in learning), means, strict=True))
    return {rung.name: _arrive(rung, target, read.get(rung.name)) for rung in ladder.all}


def _arrive(rung: Rung, target: float, mean: stats.Contrast | None) -> Arrival:
    hits = sum(stats.reach(run.curve("train_s"), target) is not None for run in rung.runs)
    timed = rung.timed
    times = {clock: _time(timed, clock, target) for clock in CLOCKS} if timed else {}
    return Arrival(hits, len(rung.runs), len(timed), times, mean)


def _time(runs: Sequence[Run], clock: str, target: float) -> Time:
    found = [stats.reach(run.curve(clock), target) for run in runs]
    return Time(stats.median(found), fmean(_interval(run, clock) for run in runs))


def _interval(run: Run, clock: str) -> float:
    """Mean time between two evaluations; the first follows the start of training, and set-up on the wall."""
    before = run.record["setup_s"] if clock == "wall_s" else 0.0
    return (float(run.evals[-1][clock]) - before) / len(run.evals)


def sheet(ladder: Ladder, arrivals: Mapping[str, Arrival], target: float) -> Sheet:
    """A row a rung: k of n, the time on both clocks, and the reading of the mean."""
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("wall_s")])
    columns = [
        ("rung", "rung"),
        (f"reached {target:g} mIoU", "reached"),
        (f"time to train, {unit}", "time_to_target_train_s"),
        (f"wall, {unit}", "time_to_target_wall_s"),
        ("last mIoU less the target", "final_miou_less_target"),
    ]
    rows = []
    for rung in ladder.all:
        each = arrivals[rung.name]
        rows.append(
            [
                Cell(rung.name, {"": rung.name}),
                Cell(f"{each.hits} of {each.runs}", {"": each.hits, "of": each.runs}),
                *(_moment(each, clock, size) for clock in CLOCKS),
                _reading(each.mean),
            ]
        )
    return Sheet("time-to-target", columns, rows)


def short(each: Arrival, size: float) -> str:
    """Median time to train until the target (k of n)."""
    time = each.times.get("train_s")
    if time is None:
        return f"– ({each.hits} of {each.runs})"
    told = number(time.median / size) if math.isfinite(time.median) else "not reached"
    return (
        f"{told}{f' ± {number(time.gap / size)}' * math.isfinite(time.median)} ({each.hits} of {each.runs})"
    )


def _moment(each: Arrival, clock: str, size: float) -> Cell:
    time = each.times.get(clock)
    if time is None:
        return Cell("– (resumed)", {"": None, "interval": None, "n": 0})
    known = {"": time.median, "interval": time.gap, "n": each.timed}
    few = f" (n = {each.timed})" if each.timed < each.runs else ""
    if not math.isfinite(time.median):
        return Cell(f"not reached{few}", known)
    return Cell(f"{number(time.median / size)} ± {number(time.gap / size)}{few}", known)


def _reading(mean: stats.Contrast | None) -> Cell:
    if mean is None:
        return Cell("– (systems rung)", {"reason": "systems rung: it is to keep the mIoU"})
    known = {
        "": mean.delta, "low": mean.low, "p": mean.chance, "verdict": mean.verdict,
        "smallest": mean.smallest, "reason": mean.reason,
    }  # fmt: skip
    if mean.low is None or mean.chance is None or mean.smallest is None:
        return Cell(f"{signed(mean.delta)} (no verdict: {mean.reason})", known)
    told = f"{signed(mean.delta)} [{signed(mean.low)}, ∞) {chance(mean.chance)} "
    if mean.verdict == "reached":
        return Cell(f"{told}**reached**", known)
    return Cell(f"{told}not shown (needs {mean.smallest:.2f})", known)


def chance(p: float) -> str:
    """p in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
