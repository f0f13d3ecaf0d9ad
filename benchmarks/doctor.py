"""Does the doctor warn when, and only when, a training would be slowed down?

    python benchmarks/doctor.py [--rounds 20] [--steps 60] [--out FILE]

Each round goes through all disturbances, in an order of its own: none, another program that wants a tenth of
a core, half of one, a whole one, and one that moves memory. Under each the doctor examines the machine, and
then a live training of `mini` (rung 00, on noise, a thread a core) takes so many steps. Prints for every
disturbance how many times as long the steps took as undisturbed in the same round (median and quartiles), how
often each line of the doctor warned, and the quartiles of what the lines judge; then what the undisturbed
rounds say by themselves: how much slower than the fastest of them those were that were warned of, and those
that were not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from step import FACTS, Training

from bench import device, doctor, recipe, workload

CHECKS = ("load", "steal", "kernel")
SLICE_S = "0.1"  # in which a program that wants a part of a core works first and sleeps then
NOTHING = "nothing"


# Programs, in processes that import nothing of ours, which would be a load of its own.
SPIN = """
import sys, time
share, slice_s = map(float, sys.argv[1:])
while True:
    began = time.perf_counter()
    while time.perf_counter() < began + share * slice_s:
        pass
    time.sleep((1 - share) * slice_s)
"""
MOVE = """
import numpy
here, there = numpy.ones(2**24), numpy.empty(2**24)
while True:
    numpy.copyto(there, here)
"""
DISTURBANCES: dict[str, tuple[str, ...]] = {
    NOTHING: (),
    "a tenth of a core": (SPIN, "0.1", SLICE_S),
    "half a core": (SPIN, "0.5", SLICE_S),
    "a core": (SPIN, "1.0", SLICE_S),
    "a core that moves memory": (MOVE,),
}


@contextlib.contextmanager
def disturbed(by: Sequence[str]) -> Iterator[None]:
    """Within, another program runs beside this one."""
    if not by:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", *by])
    time.sleep(1.0)  # until it has started
    try:
        yield
    finally:
        other.kill()
        other.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--out", type=Path, help="a JSON file for the figures of every round")
    chosen = arguments.parse_args()
    work, facts = workload.load("mini"), device.facts("cpu")
    where = device.set_up("cpu", facts["threads"], False)
    around = {name: facts[name] for name in (*FACTS, "cores") if facts[name] is not None}
    print(", ".join(f"{name} {value}" for name, value in around.items()), flush=True)
    training = Training(recipe.load("00"), work, where)
    rounds = []
    for number in range(chosen.rounds):
        order = random.Random(number).sample(list(DISTURBANCES), len(DISTURBANCES))
        found = {}
        for name in order:
            with disturbed(DISTURBANCES[name]), tempfile.TemporaryDirectory() as folder:
                lines = doctor.examine(work, device="cpu", results=Path(folder))
                told = {line.check: [line.state, line.found] for line in lines if line.check in CHECKS}
                found[name] = {"seconds": training.run(chosen.steps), **told}
        rounds.append(found)
        print(f"round {number + 1}: " + tell({name: found[name]["seconds"] for name in DISTURBANCES}))
    for name in DISTURBANCES:
        summarise(name, rounds)
    alone(rounds)
    if chosen.out:
        what = f"seconds of {chosen.steps} steps, and what the doctor said before, a row a round"
        chosen.out.write_text(json.dumps({"what": what, "with": around, "rounds": rounds}, indent=1) + "\n")


def tell(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())


def summarise(name: str, rounds: Sequence[dict[str, Any]]) -> None:
    """Print how a disturbance slows down, how often it is warned of, and by what."""
    slower = [each[name]["seconds"] / each[NOTHING]["seconds"] for each in rounds]
    print(
        f"{name}: {spread(slower, '.2f')} times as long (n = {len(rounds)}); warned: {warned(rounds, name)}"
    )
    for check in CHECKS:
        values = [figure(each[name][check][1]) for each in rounds]
        print(f"  {check}: {spread([value for value in values if value is not None], '.1f')} %")


def warned(rounds: Sequence[dict[str, Any]], name: str) -> str:
    """How often each line warned, and any."""
    states = [{check: each[name][check][0] != "ok" for check in CHECKS} for each in rounds]
    counts = [f"{check} {sum(each[check] for each in states)}" for check in CHECKS]
    return ", ".join((*counts, f"any {sum(any(each.values()) for each in states)}"))


def alone(rounds: Sequence[dict[str, Any]]) -> None:
    """Print how slow the undisturbed rounds were, told by whether they were warned of."""
    runs = [each[NOTHING] for each in rounds]
    fastest = min(run["seconds"] for run in runs)
    for said, wanted in (("warned of", True), ("not warned of", False)):
        times = [
            run["seconds"] / fastest
            for run in runs
            if any(run[check][0] != "ok" for check in CHECKS) == wanted
        ]
        figures = f"{spread(times, '.2f')} times the fastest" if len(times) > 1 else f"{times}"
        print(f"undisturbed and {said}: {len(times)} of {len(runs)}, {figures}")


def figure(found: str) -> float | None:
    """The per cent that a line judges."""
    told = re.search(r"([\d.]+) %", found)
    return float(told[1]) if told else None


def spread(values: Sequence[float], how: str) -> str:
    """Median and quartiles."""
    if len(values) < 2:
        return str([format(value, how) for value in values])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{how}} ({low:{how}} to {high:{how}})"


if __name__ == "__main__":
    main()
