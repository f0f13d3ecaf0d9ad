"""What does a run on two devices cost, and how far does it drift from the run on one?

    python benchmarks/devices.py [--recipes 00,07] [--devices 2] [--rounds 4] [--epochs 3]
        [--workload mini] [--data FOLDER]

Taking turns (A B, B A, ...) through the runner as users have it: a run of one process with as many threads as
there are devices, and a run of so many processes with one thread each. Prints img/s of each round, then the
median of the ratios and their quartiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

from rich.console import Console

from bench import matrix, progress, recipe, runner, workload
from bench.seat import Seat


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--recipes", default="00,07")
    arguments.add_argument("--devices", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--workload", default="mini")
    arguments.add_argument("--data", type=Path, help="of a workload that is not drawn")
    chosen = arguments.parse_args()
    for name in chosen.recipes.split(","):
        ratios = []
        for number in range(chosen.rounds):
            order = (1, chosen.devices) if number % 2 == 0 else (chosen.devices, 1)
            found = {devices: speed(name, devices, chosen) for devices in order}
            ratios.append(found[chosen.devices] / found[1])
            print(
                f"{chosen.workload} {name} round {number + 1}: "
                f"{chosen.devices} threads {found[1]:.0f} img/s, "
                f"{chosen.devices} devices {found[chosen.devices]:.0f} img/s, ratio {ratios[-1]:.3f}",
                flush=True,
            )
        low, _, high = statistics.quantiles(ratios, n=4)
        middle, count = statistics.median(ratios), len(ratios)
        print(
            f"{chosen.workload} {name}: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}, n = {count}"
        )


def speed(name: str, devices: int, chosen: argparse.Namespace) -> float:
    """img/s of a short run of one process with all threads, or of so many processes with one each."""
    whole = workload.load(chosen.workload)
    threads = chosen.devices if devices == 1 else 1
    train = {**whole.values["train"], "epochs": chosen.epochs, "threads": threads, "at_once": 1}
    evaluation = {**whole.values["evaluation"], "evaluations": 1}
    short = dataclasses.replace(
        whole, values={**whole.values, "train": train, "evaluation": evaluation}, fingerprint=f"{threads}"
    )
    with tempfile.TemporaryDirectory() as folder:
        how = recipe.load(name)
        seat = Seat(devices=devices, local_devices=devices)
        plan = matrix.plan([how], short, 1, Path(folder), data=chosen.data, seat=seat)
        display = progress.display(Console(quiet=True), [how.name], range(1))
        [outcome] = runner.run(plan, display).outcomes
    if outcome.record is None or outcome.status != "finished":
        raise SystemExit(f"{name} on {devices}: {outcome.status} {outcome.error}")
    return float(outcome.record["images_per_s"])


if __name__ == "__main__":
    main()
