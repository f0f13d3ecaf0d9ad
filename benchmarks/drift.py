"""How far does a run on several devices drift from the run on one, in float32, beside the spread of seeds?

    python benchmarks/drift.py [--recipes 00,07] [--devices 1,2] [--seeds 3] [--epochs 25]

Trains `mini` through the runner on each number of devices (on a CPU: processes of one thread). Prints the
largest deviation of the loss from the run on one device over the first 1, 10, 50 and all recorded steps, and
the final mIoU of each seed on each, with the standard deviation over seeds on one device.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import matrix, progress, recipe, runner, workload
from bench.seat import Seat


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--recipes", default="00,07")
    arguments.add_argument("--devices", default="1,2")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=25)
    chosen = arguments.parse_args()
    devices = [int(count) for count in chosen.devices.split(",")]
    for name in chosen.recipes.split(","):
        found = {count: train(name, count, chosen.seeds, chosen.epochs) for count in devices}
        alone = found[devices[0]]
        for count in devices[1:]:
            for seed in range(chosen.seeds):
                pairs = zip(alone[seed]["losses"], found[count][seed]["losses"], strict=True)
                apart = [abs(one - other) for one, other in pairs]
                told = "  ".join(f"{n}: {max(apart[:n]):.1e}" for n in (1, 10, 50, len(apart)))
                print(f"{name} seed {seed}, {count} devices: loss apart at most, over recorded steps  {told}")
        for count in devices:
            scores = [each["miou"] for each in found[count]]
            gaps = [abs(a["miou"] - b["miou"]) for a, b in zip(found[count], alone, strict=True)]
            spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
            print(
                f"{name}, {count} devices: final mIoU {', '.join(f'{score:.2f}' for score in scores)}; "
                f"seeds spread {spread:.2f}; from one device {statistics.fmean(gaps):.2f} on average"
            )


def train(name: str, devices: int, seeds: int, epochs: int) -> list[dict[str, Any]]:
    """Losses of the recorded steps and final mIoU, a seed each."""
    cores = os.sched_getaffinity(0)
    if devices > len(cores):
        raise SystemExit(f"{devices} devices need as many cores; there are {len(cores)}")
    mini, how = workload.load("mini"), recipe.load(name)
    values = {**mini.values, "train": {**mini.values["train"], "epochs": epochs}}
    work = replace(mini, values=values, fingerprint=f"epochs-{epochs}")
    with tempfile.TemporaryDirectory() as folder:
        plan = matrix.plan(
            [how], work, seeds, Path(folder), seat=Seat(devices=devices, local_devices=devices)
        )
        display = progress.display(Console(quiet=True), [how.name], range(seeds))
        outcomes = runner.run(plan, display).outcomes
        found = []
        for outcome in outcomes:
            if outcome.record is None or outcome.status != "finished":
                raise SystemExit(f"{name} on {devices}: {outcome.status} {outcome.error}")
            rows = csv.DictReader((outcome.job.folder / "steps.csv").read_text().splitlines())
            losses = [float(row["loss"]) for row in rows]
            found.append({"losses": losses, "miou": outcome.record["final_miou"]})
    return found


if __name__ == "__main__":
    main()
