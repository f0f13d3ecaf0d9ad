"""Does a run beside another one, each pinned to a core of its own, train as fast as alone?

    python benchmarks/side_by_side.py [--recipe 00-mmseg-baseline] [--steps 100] [--rounds 6]

Taking turns (A B C, C B A, ...) in processes of their own, on `mini`: one run alone on one core; two runs
side by side on two cores; one run with two threads. Prints img/s from the records: of the run alone, of each
of the two, with two threads; then the median of the ratios, round by round, and their quartiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from overhead import make_job

from bench import record
from bench.matrix import Job
from bench.train import train


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--recipe", default="00-mmseg-baseline")
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--rounds", type=int, default=6)
    chosen = arguments.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores")
    one, other = cores[:2]
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(chosen.recipe, chosen.steps, Path(folder))
        ways: dict[str, Callable[[], list[float]]] = {
            "alone": lambda: speeds(job, [(1, (one,))]),
            "beside": lambda: speeds(job, [(1, (one,)), (1, (other,))]),
            "threads": lambda: speeds(job, [(2, (one, other))]),
        }
        for number in range(chosen.rounds):
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            found = {way: ways[way]() for way in order}
            both = sum(found["beside"])
            rounds.append({"alone": found["alone"][0], "both": both, "threads": found["threads"][0]})
            print(
                f"round {number + 1}: alone {found['alone'][0]:.0f}   side by side "
                f"{' + '.join(f'{value:.0f}' for value in found['beside'])}   "
                f"two threads {found['threads'][0]:.0f} img/s",
                flush=True,
            )
    print(f"{chosen.recipe}, {job.workload.values['train']['epochs']} epochs, n = {len(rounds)} rounds")
    tell("each of two side by side / alone", [each["both"] / 2 / each["alone"] for each in rounds])
    tell("two side by side together / two threads", [each["both"] / each["threads"] for each in rounds])


def tell(what: str, ratios: list[float]) -> None:
    """Print median and quartiles of the ratios."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{what}: median {middle:.3f} (quartiles {low:.3f} to {high:.3f})")


def speeds(job: Job, lanes: list[tuple[int, tuple[int, ...]]]) -> list[float]:
    """img/s of runs that train at the same time, each with so many threads on these cores."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for number, (threads, cores) in enumerate(lanes):
            values = {**job.workload.values, "train": {**job.workload.values["train"], "threads": threads}}
            workload = dataclasses.replace(job.workload, values=values)
            place = Path(folder) / f"seed-{number}"
            jobs.append(dataclasses.replace(job, workload=workload, cores=cores, folder=place))
        processes = [context.Process(target=run, args=(each,)) for each in jobs]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [float(record.read(each.folder)["images_per_s"]) for each in jobs]


def run(job: Job) -> None:
    """The body of a process: one run."""
    train(job, lambda progress: None)


if __name__ == "__main__":
    main()
