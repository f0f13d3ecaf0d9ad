"""How often are the verdicts of `bench/stats.py` right, where the truth is known?

    python benchmarks/verdicts.py [--draws 4000] [--seed 0]

Draws seeds of rungs whose means and deviations are known, judges them as a report does, and prints shares:
how often an interval covers the truth, how often a ladder of equal rungs gets any better or worse, how often
an effect as large as the printed smallest one is found. Nothing is timed: a second run prints the same.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from bench import stats

Shape = Callable[[np.random.Generator, int], np.ndarray]  # draws of mean 0 and deviation 1


def normal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.standard_normal(n)


def skewed(random: np.random.Generator, n: int) -> np.ndarray:
    """Exponential: skewness 2."""
    return random.exponential(1, n) - 1


def coverage(random: np.random.Generator, draws: int, n: int, shape: Shape) -> float:
    """Share of the 95 % intervals of one contrast, at n seeds, that hold the true difference."""
    hits = 0
    for _ in range(draws):
        groups = [list(shape(random, n)) for _ in range(2)]
        (found,) = stats.differences([(groups[1], groups[0])], stats.pool(groups))
        hits += found.low is not None and found.high is not None and found.low < 0 < found.high
    return hits / draws


def one_sided_coverage(random: np.random.Generator, draws: int, n: int, shape: Shape) -> float:
    """Share of means at the target that are not called `reached`."""
    hits = 0
    for _ in range(draws):
        group = list(shape(random, n))
        (found,) = stats.attainments([group], 0.0, stats.pool([group]))
        hits += found.verdict != "reached"
    return hits / draws


def ladder(groups: Sequence[Sequence[float]]) -> list[stats.Pair]:
    """The contrasts of a report: each rung to the one before and to the lowest."""
    steps = list(zip(groups[1:], groups, strict=False))
    return steps + [(group, groups[0]) for group in groups[2:]]


def false_verdicts(random: np.random.Generator, draws: int, stds: Sequence[float], n: int = 3) -> float:
    """Share of ladders of equal rungs, of these deviations, in which any is called better or worse."""
    wrong = 0
    for _ in range(draws):
        groups = [list(std * random.standard_normal(n)) for std in stds]
        found = stats.differences(ladder(groups), stats.pool(groups))
        wrong += any(contrast.verdict in ("better", "worse") for contrast in found)
    return wrong / draws


def false_paces(random: np.random.Generator, draws: int, counts: Sequence[int], edge: float) -> float:
    """Share of ladders in which any rung is called slower that is so by the tolerance and no more: each of
    the rungs, of so many seeds, takes `edge` times as long as its own partner."""
    wrong = 0
    for _ in range(draws):
        logs = [(0.0005 * random.standard_normal(n) + math.log(edge), n) for n in counts]
        groups = [(np.exp(log), np.exp(0.0005 * random.standard_normal(n))) for log, n in logs]
        spread = stats.pool([list(np.log(group)) for pair in groups for group in pair])
        found = stats.ratios([(list(a), list(b)) for a, b in groups], spread)
        wrong += any(contrast.verdict == "slower" for contrast in found)
    return wrong / draws


def power(random: np.random.Generator, draws: int, rungs: int = 8, n: int = 3) -> float:
    """Share of verdicts `better` where the first rung is better by the smallest effect that is printed where
    the deviation is known; the verdicts themselves are by the estimated one."""
    known = stats.Spread(1.0, rungs * (n - 1), False)
    blank = [0.0] * n
    smallest = stats.differences([(blank, blank)], known)[0].smallest or math.nan
    found = 0
    for _ in range(draws):
        groups = [list(random.standard_normal(n) + (smallest if i == 0 else 0.0)) for i in range(rungs)]
        (judged,) = stats.differences([(groups[0], groups[1])], stats.pool(groups))
        found += judged.verdict == "better"
    return found / draws


def power_of_printed(
    random: np.random.Generator, draws: int, rungs: int = 8, n: int = 3
) -> tuple[float, float, float]:
    """True power of the smallest effects that reports print, whose deviation is estimated: its 5th
    percentile, median and 95th over reports of one contrast."""
    freedom = rungs * (n - 1)
    error = math.sqrt(2 / n)
    critical = float(special.stdtrit(freedom, 1 - stats.ALPHA / 2))
    powers = []
    for _ in range(draws):
        groups = [list(random.standard_normal(n)) for _ in range(rungs)]
        (found,) = stats.differences([(groups[1], groups[0])], stats.pool(groups))
        powers.append(1 - float(special.nctdtr(freedom, (found.smallest or math.nan) / error, critical)))
    low, middle, high = np.percentile(powers, [5, 50, 95])
    return float(low), float(middle), float(high)


def tenfold(random: np.random.Generator, draws: int, n: int) -> float:
    """Share of tenfold times that are found at n seeds of two rungs, at a deviation of 5 %."""
    found = 0
    for _ in range(draws):
        slow, fast = (list(level * np.exp(0.05 * random.standard_normal(n))) for level in (100.0, 10.0))
        spread = stats.pool([[math.log(x) for x in group] for group in (slow, fast)])
        found += stats.ratios([(slow, fast)], spread)[0].verdict == "slower"
    return found / draws


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--draws", type=int, default=4000)
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    random, draws = np.random.default_rng(chosen.seed), chosen.draws

    def show(what: str, share: str | float, due: str) -> None:
        told = share if isinstance(share, str) else f"{100 * share:.1f} %"
        print(f"{what:<80} {told:>18}   {due}")

    doubt = 196 * math.sqrt(0.05 * 0.95 / draws)
    print(f"{draws} draws a line, seed {chosen.seed}; so many tell a share of 5 % to ± {doubt:.1f}")
    for shape, due in ((normal, "95 %"), (skewed, "–")):
        for n in (3, 5, 10):
            share = coverage(random, draws, n, shape)
            show(f"interval covers the difference, n = {n}, {shape.__name__} draws", share, due)
    for shape, due in ((normal, "95 %"), (skewed, "–")):
        for n in (3, 5, 10):
            share = one_sided_coverage(random, draws, n, shape)
            show(f"mean at the target is not called reached, n = {n}, {shape.__name__} draws", share, due)
    for stds, what, due in (
        ([1.0] * 7, "equal deviations", "at most 5 %"),
        ([1.0, 2.0] * 3 + [1.0], "deviations 1 and 2 in turns", "–"),
        ([2.0] + [1.0] * 6, "the lowest rung's twofold", "–"),
    ):
        share = false_verdicts(random, draws, stds)
        show(f"any false better or worse on 7 equal rungs, n = 3, {what}", share, due)
    for edge in (1.0, 1 / (1 - stats.TOLERANCE)):
        share = false_paces(random, draws, (3, 4, 6, 9, 13, 20, 30, 45, 70), edge)
        show(f"any false slower of 9 rungs of 3 to 70 seeds, {edge:.3f} times as long", share, "at most 5 %")
    show("smallest effect found, deviation known, 8 rungs, n = 3", power(random, draws), "80 %")
    for rungs in (2, 8):
        low, middle, high = (f"{100 * each:.0f}" for each in power_of_printed(random, draws, rungs))
        what = f"true power of the printed one, deviation estimated, {rungs} rungs, n = 3"
        show(what, f"{middle} % ({low} to {high})", "median (5th to 95th percentile)")
    for n in (3, 5, 10):
        show(f"tenfold time found at 5 % of noise, n = {n}", tenfold(random, draws, n), "100 %")


if __name__ == "__main__":
    main()
