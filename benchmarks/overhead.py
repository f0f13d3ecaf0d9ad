"""What does the harness around the training loop cost?

    python benchmarks/overhead.py [--recipe 00-mmseg-baseline] [--steps 600] [--rounds 3]

One process, pinned to one core, two live trainings of `mini` that take turns of a quarter of a second: a
whole run of `bench.train.train`, and a bare loop of the same steps (same batches, model, loss and
optimiser; no clock, log, progress, record or checkpoint). The bare loop's turns lie in the progress
messages of the run and are taken out of its train time. Prints milliseconds a step of both and their
ratio, for each round, then the median. The thread that samples sensors runs beside both: its own cost,
from the record, is printed and added.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench import device, model, optim, pretrained, recipe, record, replicas, scenes, workload
from bench.batches import Batches
from bench.dataset import Dataset
from bench.matrix import Job
from bench.progress import Progress
from bench.train import facts, train


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--recipe", default="00-mmseg-baseline")
    arguments.add_argument("--steps", type=int, default=600)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # as `segbench run` pins a run of mini
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(chosen.recipe, chosen.steps, Path(folder))
        for number in range(chosen.rounds):
            harness, bare, sensors = measure(dataclasses.replace(job, folder=job.folder / f"seed-{number}"))
            ratios.append(harness / bare + sensors / 100)
            print(
                f"round {number + 1}: harness {1000 * harness:.3f} ms a step   bare {1000 * bare:.3f} ms   "
                f"sensors {sensors:.2f} %   ratio {ratios[-1]:.4f}",
                flush=True,
            )
    print(f"{chosen.recipe}, n = {len(ratios)}, one core of {job.facts['cpu']}")
    print(f"harness / bare: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}")


def make_job(name: str, steps: int, folder: Path) -> Job:
    """A job on `mini`, cut to about `steps` steps, evaluated as often in them as the whole run would be."""
    chosen, whole = recipe.load(name), workload.load("mini")
    data = whole.values["data"]
    epochs = max(1, round(steps * chosen.values["optim"]["batch_size"] / data["train_images"]))
    train_values = {**whole.values["train"], "epochs": epochs}
    short = dataclasses.replace(whole, values={**whole.values, "train": train_values})
    pictures = scenes.ensure(
        scenes.cache_folder(), data["train_images"], data["val_images"], data["scenes_seed"]
    )
    return Job(
        recipe=chosen,
        workload=short,
        seed=0,
        folder=folder,
        data=pictures,
        device="cpu",
        command="benchmarks/overhead.py",
        deterministic=False,
        facts=facts("cpu"),
    )


def measure(job: Job) -> tuple[float, float, float]:
    """Seconds a step of a run and of a bare loop that take turns; what the sensors took, % of train time."""
    bare, spent, done = Bare(job), 0.0, 0

    def take_turn(progress: Progress) -> None:
        nonlocal spent, done
        if progress.phase == "train":
            began = time.perf_counter()
            while done < progress.step:
                bare.step(done)
                done += 1
            spent += time.perf_counter() - began

    train(job, take_turn)
    run = record.read(job.folder)
    return (run["train_s"] - spent) / run["steps"], spent / done, run["telemetry_cost_pct"]


class Bare:
    """The model and the loop, and nothing else."""

    def __init__(self, job: Job) -> None:
        values, settings = job.workload.values, job.recipe.values
        self.device = device.set_up("cpu", values["train"]["threads"], False)
        torch.manual_seed(0)
        self.model = model.build(values["model"], len(values["data"]["classes"]))
        weights = values["model"][settings["model"]["weights"]]
        pretrained.load_backbone(self.model, values["model"]["backbone"], weights)
        self.model = self.model.to(memory_format=torch.channels_last).train()
        self.objective = replicas.Objective(self.model)
        self.settings, self.sync_bn = settings["optim"], settings["replicas"]["sync_bn"]
        self.optimizer = optim.build(self.settings, self.model)
        self.size, self.replicas = self.settings["batch_size"], values["train"]["replicas"]
        dataset = Dataset(job.data, "training", values["data"]["classes"], in_memory=True)
        self.batches = Batches(dataset, values["train"]["crop"], self.size, 0)
        self.steps = values["train"]["epochs"] * len(dataset) // self.size

    def step(self, number: int) -> None:
        """One step."""
        images, labels = self.batches.make(number).on(self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        keep = replicas.dropout_mask(0, number, self.size, self.model.head_width, self.model.dropout)
        self.optimizer.zero_grad(set_to_none=True)
        replicas.accumulate(self.objective, images, labels, keep, self.replicas, self.sync_bn)
        for group in self.optimizer.param_groups:
            group["lr"] = optim.learning_rate(self.settings, number, self.steps)
        self.optimizer.step()


if __name__ == "__main__":
    main()
