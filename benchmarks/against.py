"""How often does `segbench check --against` cry wolf, and which slowdowns does it find?

    python benchmarks/against.py measure benchmarks/against/NAME.csv [--planted 0,5,10] [--minutes 5]
    python benchmarks/against.py judge [benchmarks/against/*.csv] > benchmarks/against.md

`measure` is one occasion: pairs of this checkout and a copy of it, taken as the command takes them, as many
as fit into the time. With --planted the copy is slower by so many per cent, in turn: a loop in its own code
burns processor time after each batch and each step. A row is a side of a pair: the milliseconds of its steps.

`judge` prints benchmarks/against.md: how many checks of the pairs of each occasion say SLOWER, by the rule of
the command, and by what others do with the same steps.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas
import scipy.stats

from bench import against, duel, machine, recipe, revision, stats, workload
from bench.revision import Revision

PLANT = '''

def _slowed(function):
    """Planted by benchmarks/against.py."""
    import time

    def call(*arguments, **named):
        began = time.perf_counter()
        found = function(*arguments, **named)
        ended = time.perf_counter()
        while time.perf_counter() < ended + {share} * (ended - began):
            pass
        return found

    return call


{name} = _slowed({name})
'''
SLOWED = {"learner": "Learner.train_step", "batches": "Batches.make"}  # what a turn consists of
COLUMNS = ("occasion", "machine", "rung", "pair", "planted_pct", "side", "seconds")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = arguments.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.set_defaults(call=measure)
    measuring.add_argument("out", type=Path)
    measuring.add_argument("--rung", default="00-mmseg-baseline")
    measuring.add_argument("--planted", default="0", help="per cent, by commas")
    measuring.add_argument("--minutes", type=float, default=5.0)
    judging = commands.add_parser("judge")
    judging.set_defaults(call=judge)
    judging.add_argument("files", type=Path, nargs="*")
    judging.add_argument("--pairs", type=int, default=against.PAIRS)
    judging.add_argument("--draws", type=int, default=1000)
    chosen = vars(arguments.parse_args())
    chosen.pop("call")(**chosen)


def measure(out: Path, rung: str, planted: str, minutes: float) -> None:
    """One occasion, a file."""
    shares = [float(share) for share in planted.split(",")]
    own, began = revision.here(), time.monotonic()
    with out.open("w", newline="", encoding="utf-8") as file, copies(own, shares) as others:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow((*COLUMNS, *(f"ms_{turn}" for turn in range(duel.MOST))))
        task, number, last = make_task(rung), 0, 0.0
        facts = machine.host_facts()
        where = f"{facts['cores']} cores of {facts['cpu']} with torch {metadata.version('torch')}"
        while time.monotonic() - began + last < 60 * minutes:
            share, since = shares[number % len(shares)], time.monotonic()
            # the same number for the same turn of each share, so that cores and order go round for each
            pair = duel.measure(own, others[share], task, number // len(shares))
            last = time.monotonic() - since
            for side, turns in (("old", pair.old_turns), ("new", pair.new_turns)):
                known = (out.stem, where, rung, number, f"{share:g}", side, f"{last:.2f}")
                rows.writerow((*known, *(f"{1000 * turn['step']:.2f}" for turn in turns)))
            old, new = pair.medians("step")
            print(f"pair {number}, planted {share:g} %: {last:.1f} s, new / old {new / old:.4f}", flush=True)
            number += 1


def make_task(name: str) -> duel.Task:
    """What the command would measure on a CPU."""
    question = against.Question([recipe.load(name)], workload.load("mini"), device="cpu")
    return question.task(question.recipes[0], "cpu")


@contextmanager
def copies(own: Revision, shares: list[float]) -> Iterator[dict[float, Revision]]:
    """The checkout once for each share, slower by it."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for share in shares:
            root = Path(folder) / f"slower-{share:g}"
            for name in ("bench", "recipes"):
                shutil.copytree(own.root / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            for module, name in SLOWED.items():
                if share:
                    with (root / "bench" / f"{module}.py").open("a", encoding="utf-8") as file:
                        file.write(PLANT.format(name=name, share=share / 100))
            found[share] = replace(own, root=root, name=f"a copy, slower by {share:g} %")
        yield found


# ---- judging -----------------------------------------------------------------------------------

Times = np.ndarray  # (pairs, turns), milliseconds; not a number where a pair had fewer turns
Rule = Callable[[Times, Times], bool]  # old, new -> is the new one called slower?


def ours(old: Times, new: Times) -> bool:
    """The command."""
    ratios = np.nanmedian(old, axis=1) / np.nanmedian(new, axis=1)
    return stats.paired(ratios.tolist(), stats.TOLERANCE, against.ALPHA).verdict == "slower"


def threshold(share: float) -> Rule:
    """One run of each, from two pairs, one after the other: their means differ by more than `share`."""
    return lambda old, new: bool(np.nanmean(new[1]) > (1 + share) * np.nanmean(old[0]))


def one_rank_test(old: Times, new: Times) -> bool:
    """Mann-Whitney on the steps of one run each."""
    return rank_test(old[0], new[1])


def rank_test(old: Times, new: Times) -> bool:
    """Mann-Whitney on all steps, as if each were a sample of its own."""
    sides = new.ravel(), old.ravel()
    test = scipy.stats.mannwhitneyu(*sides, alternative="greater", nan_policy="omit")
    return bool(test.pvalue < against.ALPHA)


RULES: dict[str, Rule] = {
    "check --against": ours,
    "two runs, 7 %": threshold(0.07),
    "two runs, mean:5% (pytest-benchmark)": threshold(0.05),
    "two runs, Mann-Whitney": one_rank_test,
    "all steps, Mann-Whitney": rank_test,
}


PAGE = """# How far `segbench check --against` can be trusted

Printed by `python benchmarks/against.py judge` from the samples in `benchmarks/against/`, taken on
{machines}: pairs of processes on `mini`, one of a checkout, one of a copy of it.

- `quiet`: nothing else ran. `shared`: the machine as it was. `loaded`: two trainings ran beside it all the
  time, on purpose, one on each core.
- `planted`: the copy's own code burns so much more time in each batch and step.

A check is {pairs} pairs, tolerance {tolerance:.0%}, 1 % chance of a false alarm at that edge. A row is
{draws} checks: their pairs are drawn without replacement, and the sides of each change places by chance,
so that none is slower; then the times of the new side are multiplied as the row says. What is planted
neither changes places nor is multiplied.

The columns on the right say which per cent of the checks call the new side slower: by the rule of the
command, and by what else is done with the same steps. "Two runs": one process a side, from two pairs,
their means 7 % apart; or 5 %, which is `--benchmark-compare-fail=mean:5%` of pytest-benchmark; or
Mann-Whitney on their steps, at 1 %. "All steps": Mann-Whitney on the steps of all pairs of a check, as if
each were a sample of its own.

| occasion | rung | pairs | spread of a ratio | a check takes | slower by | {rules} |
"""


def judge(files: list[Path], pairs: int, draws: int) -> None:
    """The page."""
    files = files or sorted(Path(__file__).with_suffix("").glob("*.csv"))
    machines = {name for path in files for name in pandas.read_csv(path)["machine"]}
    shown = {"pairs": pairs, "tolerance": stats.TOLERANCE, "draws": draws, "rules": " | ".join(RULES)}
    print(PAGE.format(**shown, machines=", ".join(sorted(machines))) + "| --- " * (6 + len(RULES)) + "|")
    blocks: dict[str, list[bool]] = {}
    alarms: dict[str, list[float]] = {}
    for path in files:
        for (rung, planted), (old, new, seconds) in read(path).items():
            logs = np.log(np.nanmedian(new, axis=1) / np.nanmedian(old, axis=1))
            spread, whole = 100 * logs.std(ddof=1), pairs * seconds
            start = f"| {path.stem} | {rung} | {len(old)} | {spread:.2f} % | {whole:.0f} s | "
            for how, factor in rows(planted):
                found = resample(old, new, pairs, draws, factor, swap=not planted)
                print(start + how + "".join(f" | {100 * share:.1f}" for share in found) + " |", flush=True)
                alarms.setdefault(how, []).append(found[0])
            if not planted:
                count_blocks(blocks, old, new, pairs)
    print("\nFalse alarms of the command on all occasions together, exact binomial 95 % intervals:\n")
    for how, called in blocks.items():
        drawn = round(draws * sum(alarms[how])), draws * len(alarms[how])
        own = sum(called), len(called)
        print(f"- slower by {how}: {tell(*drawn)} of the draws, which share their pairs;")
        print(f"  {tell(*own)} of checks of pairs as they came, each used once a way round")


def tell(count: int, total: int) -> str:
    """So many of so many, and what may lie behind it."""
    low, high = scipy.stats.binomtest(count, total).proportion_ci(0.95, "exact")
    return f"{count} of {total} ({100 * low:.2f} to {100 * high:.2f} %)"


def rows(planted: float) -> list[tuple[str, float]]:
    """What is made of the pairs of one kind: in words, and the factor on the new side's times."""
    if planted:
        return [(f"{planted:g} %, planted", 1.0)]
    edge = 1 / (1 - stats.TOLERANCE)
    return [("nothing", 1.0), ("the tolerance", edge), ("5 %, multiplied", 1.05), ("10 %, multiplied", 1.1)]


def resample(old: Times, new: Times, pairs: int, draws: int, factor: float, swap: bool) -> list[float]:
    """Share of draws that each rule calls slower."""
    chance, counts = np.random.default_rng(0), dict.fromkeys(RULES, 0)
    for _ in range(draws):
        drawn = chance.permutation(len(old))[:pairs]
        turned = (chance.random(pairs) < 0.5)[:, None] & swap
        first, second = np.where(turned, new[drawn], old[drawn]), np.where(turned, old[drawn], new[drawn])
        for name, rule in RULES.items():
            counts[name] += rule(first, factor * second)
    return [count / draws for count in counts.values()]


def count_blocks(blocks: dict[str, list[bool]], old: Times, new: Times, pairs: int) -> None:
    """Checks of pairs as they came, each way round: what one side calls slower has the other faster."""
    for how, factor in rows(0)[:2]:
        for first in range(0, len(old) - pairs + 1, pairs):
            block = slice(first, first + pairs)
            called = blocks.setdefault(how, [])
            called += [ours(old[block], factor * new[block]), ours(new[block], factor * old[block])]


def read(path: Path) -> dict[tuple[str, float], tuple[Times, Times, float]]:
    """Rung and per cent planted -> times of the old side, of the new, and seconds a pair."""
    table = pandas.read_csv(path)
    times = [name for name in table if name.startswith("ms_")]
    found = {}
    for (rung, planted), rows in table.groupby(["rung", "planted_pct"]):
        sides = (rows[rows["side"] == side].sort_values("pair")[times].to_numpy() for side in ("old", "new"))
        found[rung, float(planted)] = (*sides, float(rows["seconds"].mean()))
    return found


if __name__ == "__main__":
    main()
