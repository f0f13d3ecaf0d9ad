"""What the numbers of a ladder allow one to say: spreads, intervals, verdicts, time to a target.

Few seeds say little about the spread of one rung, much about the spread of all rungs together: contrasts use
the standard deviation pooled over the ladder and Student's t. All contrasts of a table are one family: Holm's
correction holds the chance of any false better or worse below 5 %, and sets interval and verdict alike.
An effect that cannot be judged is never a verdict.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from scipy import special

ALPHA = 0.05  # chance of any false verdict in a family; intervals cover 1 - ALPHA or more
POWER = 0.8  # the smallest effect is one found this often
FEWEST = 3  # seeds below which there is no verdict
MARGIN = 0.5  # points of mIoU within which two rungs count as the same
TOLERANCE = 0.02  # relative difference of speed within which two rungs count as the same
UNEVEN = 0.01  # p of Bartlett's test below which a pooled deviation needs a warning


Pair = tuple[Sequence[float], Sequence[float]]  # the groups of a contrast


@dataclass(frozen=True)
class Spread:
    """Standard deviation pooled over groups, its degrees of freedom, and whether the groups' deviations
    differ more than chance explains."""

    std: float
    freedom: int
    uneven: bool


@dataclass(frozen=True)
class Contrast:
    """Mean of one group less that of another (or, from `ratios` and `speedups`, divided by it).

    `low`, `high`: the interval; `smallest`: the effect found four times in five; `chance`: p, where it is
    asked for. With `verdict` None they are None too and `reason` says why.
    """

    delta: float
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    smallest: float | None = None
    reason: str = ""
    chance: float | None = None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    if len(values) < 2:
        return None
    if min(values) == max(values):  # their mean may be another number, by a rounding
        return 0.0
    mean = fmean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def pool(groups: Sequence[Sequence[float]]) -> Spread:
    """The spread within groups, each about its own mean. Groups of one say nothing about it."""
    known = [(len(group) - 1, std**2) for group in groups if (std := deviation(group)) is not None]
    freedom = sum(free for free, _ in known)
    if not freedom:
        return Spread(math.nan, 0, False)
    variance = sum(free * own for free, own in known) / freedom
    return Spread(math.sqrt(variance), freedom, _bartlett(known, variance, freedom) < UNEVEN)


def _bartlett(known: Sequence[tuple[int, float]], variance: float, freedom: int) -> float:
    """p of Bartlett's test that all variances are equal (Bartlett 1937, with his correction)."""
    if len(known) < 2 or variance == 0:
        return 1.0
    if any(own == 0 for _, own in known):
        return 0.0
    statistic = freedom * math.log(variance) - sum(free * math.log(own) for free, own in known)
    correction = 1 + (sum(1 / free for free, _ in known) - 1 / freedom) / (3 * (len(known) - 1))
    return float(special.chdtrc(len(known) - 1, max(0.0, statistic / correction)))


def differences(
    pairs: Sequence[Pair], spread: Spread, margin: float = MARGIN, kept: Collection[int] = ()
) -> list[Contrast]:
    """Mean of the first group of each pair less that of the second, as one family.

    Verdict: `better` or `worse` where the interval leaves 0 out, `same` where it lies within ± `margin`,
    else `cannot tell`. None where a group has fewer than FEWEST values or nothing is known of the spread.
    `kept`: numbers of the pairs of which only a loss matters, judged as by `shortfalls`.
    """
    gaps = [_beyond(-margin) if i in kept else abs for i in range(len(pairs))]
    return [
        _kept(contrast, margin) if i in kept else _judge(contrast, margin)
        for i, contrast in enumerate(_contrasts(pairs, spread, gaps))
    ]


def shortfalls(pairs: Sequence[Pair], spread: Spread, margin: float = MARGIN) -> list[Contrast]:
    """Mean of the first group of each pair less that of the second, where only a loss matters.

    Verdict: `worse` where the whole interval lies below -`margin`, `not worse` where it lies above, else
    `cannot tell`; Holm's steps test against -`margin`. `smallest`: the difference, below -`margin`, that
    would have been found worse.
    """
    return differences(pairs, spread, margin, kept=range(len(pairs)))


def ratios(pairs: Sequence[Pair], spread: Spread, tolerance: float = TOLERANCE) -> list[Contrast]:
    """Geometric mean of the first group of each pair over that of the second, for times: less is faster.

    `spread` is that of the logarithms. Verdict: `faster` where the whole interval lies below 1 - `tolerance`,
    `slower` where it lies above the reciprocal (a pair turned round has the mirrored verdict), `same` where
    it lies between, else `cannot tell`. `smallest`: the ratio, below 1, that would have been found.
    Holm's steps test against these bounds, not against 1: the chance that any rung within the tolerance is
    called faster or slower stays below ALPHA, however many others are slower.
    """
    return [
        replace(found, verdict=_pace(found.low, found.high, tolerance))
        if found.low is not None and found.high is not None
        else found
        for found in _quotients(pairs, spread, tolerance)
    ]


def speedups(pairs: Sequence[Pair], spread: Spread, tolerance: float = TOLERANCE) -> list[Contrast]:
    """As `ratios`, for speeds: less is slower."""
    return [
        replace(found, verdict=_pace(1 / found.high, 1 / found.low, tolerance))
        if found.low is not None and found.high is not None
        else found
        for found in _quotients(pairs, spread, tolerance)
    ]


def _pace(low: float, high: float, tolerance: float) -> str:
    """The verdict on a ratio of times."""
    fast = 1 - tolerance
    if high < fast:
        return "faster"
    if low > 1 / fast:
        return "slower"
    return "same" if low > fast and high < 1 / fast else "cannot tell"


def _quotients(pairs: Sequence[Pair], spread: Spread, tolerance: float) -> list[Contrast]:
    """Ratios and their intervals; no verdicts yet."""
    edge = -math.log(1 - tolerance)
    logs = [(_logarithms(first), _logarithms(second)) for first, second in pairs]
    found = []
    for contrast in _contrasts(logs, spread, [_outside(edge)] * len(pairs)):
        ratio = replace(contrast, delta=math.exp(contrast.delta))
        if contrast.low is not None and contrast.high is not None and contrast.smallest is not None:
            least = (1 - tolerance) * math.exp(-contrast.smallest)
            low, high = math.exp(contrast.low), math.exp(contrast.high)
            ratio = replace(ratio, low=low, high=high, smallest=least)
        found.append(ratio)
    return found


def paired(ratios: Sequence[float], tolerance: float = TOLERANCE, alpha: float = ALPHA / 2) -> Contrast:
    """Geometric mean of the `ratios` of two speeds, one from each pair of processes: less is slower.

    Verdicts are those of `speedups`. `alpha`: the chance of a false `slower` where the true ratio is
    1 - `tolerance`, and of a false `faster` at its reciprocal; nearer to 1 both are rarer.
    """
    logs = [math.log(ratio) for ratio in ratios]
    count, std = len(logs), deviation(logs)
    if not logs:
        return Contrast(math.nan, reason="no run that counts")
    delta = fmean(logs)
    if count < FEWEST or not std:
        return Contrast(math.exp(delta), reason=f"n = {count}" if std != 0 else "no spread between pairs")
    error = std / math.sqrt(count)
    half = _quantile(1 - alpha, count - 1) * error
    low, high = math.exp(delta - half), math.exp(delta + half)
    least = (1 - tolerance) * math.exp(-_detectable(count - 1, 2 * alpha) * error)
    return Contrast(math.exp(delta), low, high, _pace(1 / high, 1 / low, tolerance), least)


def _logarithms(values: Sequence[float]) -> list[float]:
    """NaN, of which nothing can be said, for what is no positive number."""
    return [math.log(value) if value > 0 else math.nan for value in values]


def _outside(edge: float) -> Callable[[float], float]:
    return lambda delta: max(0.0, abs(delta) - edge)


def _beyond(bound: float) -> Callable[[float], float]:
    return lambda delta: abs(delta - bound)


def _judge(contrast: Contrast, margin: float) -> Contrast:
    low, high = contrast.low, contrast.high
    if low is None or high is None:
        return contrast
    if low > 0:
        verdict = "better"
    elif high < 0:
        verdict = "worse"
    else:
        verdict = "same" if -margin < low and high < margin else "cannot tell"
    return replace(contrast, verdict=verdict)


def _kept(contrast: Contrast, margin: float) -> Contrast:
    low, high, smallest = contrast.low, contrast.high, contrast.smallest
    if low is None or high is None or smallest is None:
        return contrast
    verdict = "worse" if high < -margin else "not worse" if low > -margin else "cannot tell"
    return replace(contrast, smallest=-margin - smallest, verdict=verdict)


def _contrasts(
    pairs: Sequence[Pair], spread: Spread, gaps: Sequence[Callable[[float], float]]
) -> list[Contrast]:
    """Intervals at the levels of Holm's steps; no verdicts yet. `gaps`: how far a difference lies from what
    the test would refute, 0 for what it would not; `smallest` is such a gap."""
    found = [_plain(first, second, spread) for first, second in pairs]
    tested = [i for i, contrast in enumerate(found) if not contrast.reason]
    errors = {i: spread.std * math.sqrt(1 / len(pairs[i][0]) + 1 / len(pairs[i][1])) for i in tested}
    chances = {
        i: 2 * float(special.stdtr(spread.freedom, -gaps[i](found[i].delta) / errors[i])) for i in tested
    }
    factor = _detectable(spread.freedom, ALPHA / len(tested)) if tested else math.nan
    for i, alpha in _holm(chances).items():
        half = _quantile(1 - alpha / 2, spread.freedom) * errors[i]
        found[i] = replace(
            found[i],
            low=found[i].delta - half,
            high=found[i].delta + half,
            smallest=factor * errors[i],
        )
    return found


def _plain(first: Sequence[float], second: Sequence[float], spread: Spread) -> Contrast:
    """The difference alone, and why there is no more to it."""
    if not first or not second:
        return Contrast(math.nan, reason="no run that counts")
    delta = fmean(first) - fmean(second)
    reason = _obstacle(min(len(first), len(second)), spread)
    return Contrast(delta, reason=reason if math.isfinite(delta) else "not a number")


def _obstacle(n: int, spread: Spread) -> str:
    """Why so many values and such a spread allow no verdict; empty where they do."""
    if n < FEWEST:
        return f"n = {n}"
    return "" if 0 < spread.std < math.inf and spread.freedom > 0 else "no spread between seeds"


def attainments(groups: Sequence[Sequence[float]], target: float, spread: Spread) -> list[Contrast]:
    """Whether the mean of each group reaches `target`: one-sided t tests, as one family.

    `delta`: the mean less `target`; `low`: the lower end of its one-sided interval, `high` infinite;
    `chance`: p corrected by Holm. Verdict: `reached` where the interval lies above 0, else `not shown`, which
    is no proof of the contrary. `smallest`: the excess that would have been found.
    """
    found = []
    for group in groups:
        delta = fmean(group) - target if group else math.nan
        reason = _obstacle(len(group), spread) if math.isfinite(delta) else "no run that counts"
        found.append(Contrast(delta, reason=reason))
    tested = [i for i, contrast in enumerate(found) if not contrast.reason]
    errors = {i: spread.std / math.sqrt(len(groups[i])) for i in tested}
    chances = {i: float(special.stdtr(spread.freedom, -found[i].delta / errors[i])) for i in tested}
    adjusted = _adjusted(chances)
    factor = _detectable(spread.freedom, 2 * ALPHA / len(tested)) if tested else math.nan
    for i, alpha in _holm(chances).items():
        low = found[i].delta - _quantile(1 - alpha, spread.freedom) * errors[i]
        found[i] = replace(
            found[i],
            low=low,
            high=math.inf,
            smallest=factor * errors[i],
            chance=adjusted[i],
            verdict="reached" if low > 0 else "not shown",
        )
    return found


def _adjusted(chances: dict[int, float]) -> dict[int, float]:
    """Each p as Holm corrects it: below ALPHA exactly where its test at Holm's level rejects."""
    adjusted: dict[int, float] = {}
    most = 0.0
    for rank, i in enumerate(sorted(chances, key=lambda i: (chances[i], i))):
        most = max(most, min(1.0, (len(chances) - rank) * chances[i]))
        adjusted[i] = most
    return adjusted


def _holm(chances: dict[int, float]) -> dict[int, float]:
    """Level of each test in Holm's procedure (1979). From the first failure on the level stays, so that an
    interval at its level leaves 0 out exactly where Holm rejects."""
    levels: dict[int, float] = {}
    failed: float | None = None
    for rank, i in enumerate(sorted(chances, key=lambda i: (chances[i], i))):
        levels[i] = failed or ALPHA / (len(chances) - rank)
        if failed is None and chances[i] > levels[i]:
            failed = levels[i]
    return levels


def _quantile(share: float, freedom: int) -> float:
    return float(special.stdtrit(freedom, share))


@functools.cache
def _detectable(freedom: int, alpha: float) -> float:
    """The true difference, in true standard errors, that a two-sided t test at `alpha` finds with chance
    POWER: bisection on the noncentral t distribution."""
    critical = _quantile(1 - alpha / 2, freedom)
    low, high = 0.0, 2 * critical + 10
    for _ in range(60):
        middle = (low + high) / 2
        if float(special.nctdtr(freedom, middle, critical)) > 1 - POWER:
            low = middle
        else:
            high = middle
    return high


def reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Time of the first (time, mIoU) at or above `target`; None if there is none."""
    return next((time for time, miou in curve if miou >= target), None)


def median(times: Sequence[float | None]) -> float:
    """Median of times of which None was never reached and counts as infinite."""
    ranked = sorted(math.inf if time is None else time for time in times)
    if not ranked:
        return math.nan
    middle = len(ranked) // 2
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2
