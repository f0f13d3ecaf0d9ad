"""What does the harness around the training loop cost?

    python benchmarks/overhead.py [--recipe 00-mmseg-baseline] [--steps 400] [--pairs 8]

Side by side in one process, taking turns (A B B A ...): a run of `bench.train.train` on `mini`, of which the
train phase counts, and a bare loop of the same steps: same batches, model, loss and optimiser, and no clock,
telemetry, log, progress or checkpoint. Prints time a pair, the median ratio and its quartiles.
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
from bench.runner import Job
from bench.train import facts, train


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--recipe", default="00-mmseg-baseline")
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--pairs", type=int, default=8)
    chosen = arguments.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # as `segbench run` pins a run of mini
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(chosen.recipe, chosen.steps, Path(folder))
        bare(job, 20)
        for pair in range(chosen.pairs):
            if pair % 2:
                b, a = bare(job, chosen.steps), harness(job, pair)
            else:
                a, b = harness(job, pair), bare(job, chosen.steps)
            ratios.append(a / b)
            print(f"pair {pair + 1:2}: harness {a:6.3f} s   bare {b:6.3f} s   ratio {a / b:.4f}", flush=True)
    low, middle, high = statistics.quantiles(ratios, n=4)
    machine = f"one core of {job.facts['cpu']}"
    print(f"{job.recipe.name}, {chosen.steps} steps, n = {len(ratios)}, {machine}")
    print(f"harness / bare: median {middle:.4f} (quartiles {low:.4f} to {high:.4f})")


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


def harness(job: Job, number: int) -> float:
    """Seconds a hundred steps that the record of a real run shows for its train phase."""
    job = dataclasses.replace(job, folder=job.folder / f"seed-{number}")
    train(job, lambda progress: None)
    run = record.read(job.folder)
    return float(run["train_s"]) / run["steps"] * 100


def bare(job: Job, steps: int) -> float:
    """Seconds a hundred steps of the loop alone."""
    values, settings = job.workload.values, job.recipe.values
    where = device.set_up("cpu", values["train"]["threads"], False)
    torch.manual_seed(0)
    network = model.build(values["model"], len(values["data"]["classes"]))
    weights = values["model"][settings["model"]["weights"]]
    pretrained.load_backbone(network, values["model"]["backbone"], weights)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = optim.build(settings["optim"], network)
    dataset = Dataset(job.data, "training", values["data"]["classes"], in_memory=True)
    size, crop, count = settings["optim"]["batch_size"], values["train"]["crop"], values["train"]["replicas"]
    batches = Batches(dataset, crop, size, 0)
    began = time.perf_counter()
    for step in range(steps):
        images, labels = batches[step].on(where)
        keep = replicas.dropout_mask(0, step, size, network.head_width, network.dropout)
        optimizer.zero_grad(set_to_none=True)
        replicas.accumulate(network, images, labels, keep, count, settings["replicas"]["sync_bn"])
        for group in optimizer.param_groups:
            group["lr"] = optim.learning_rate(settings["optim"], step, steps)
        optimizer.step()
    return (time.perf_counter() - began) / steps * 100


if __name__ == "__main__":
    main()
