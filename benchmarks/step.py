"""What does each switch of `[system]` gain over a plain training step?

    python benchmarks/step.py [--workload ade20k-fake] [--recipe 00-mmseg-baseline] [--rounds 12] [--steps 8]

Two live trainings on noise take turns of `--steps` steps (A B, B A, ...): the plain one (eager, channels
first, in the workload's half precision, its optimiser not fused) and one with the switches on, added one
after another. Prints img/s of the plain one, then for each set of switches its img/s and the ratio (median
and quartiles of the rounds), its MFU against the measured and the nominal peak, and the share of time spent
waiting for data; at last the operators that take the most time of the last set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench import device, machine, model, noise, recipe, workload
from bench.batches import Batch
from bench.learner import Learner
from bench.workload import Workload

PLAIN = {"channels_last": False, "compile": False}
ADDED: list[tuple[str, dict[str, Any]]] = [
    ("fused optimiser", {}),
    ("channels last", {"channels_last": True}),
    ("compile", {"compile": True}),
    ("bf16", {"precision": "bf16"}),
]
ROWS = 12  # of the profile


class Training:
    """A live training on noise; `fused`: whether its optimiser is."""

    def __init__(self, chosen: argparse.Namespace, where: torch.device, system: dict[str, Any], fused: bool):
        found = workload.load(chosen.workload)
        values = {**found.values, "system": {**found.values["system"], **system}}
        self.work = Workload(name=found.name, title=found.title, values=values, fingerprint="")
        self.learner = Learner(recipe.load(chosen.recipe), self.work, 0, where)
        if not fused:
            for group in self.learner.optimizer.param_groups:
                group["fused"] = False
            self.learner.optimizer._step_supports_amp_scaling = False
        self.where, self.step, self.waited = where, 0, 0.0
        self.run(3)

    def batch(self) -> Batch:
        """The next one."""
        learner = self.learner
        return noise.batch(learner.batch_size, learner.crop, learner.classes, (0, 0, self.step), self.where)

    def run(self, steps: int) -> float:
        """Seconds of so many steps; `waited` is the part in which the loop waited for a batch."""
        self.waited = 0.0
        device.wait_for(self.where)
        began = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = self.batch()
            self.waited += time.perf_counter() - asked
            self.learner.train_step(batch, self.step, 1e-4)
            self.step += 1
        device.wait_for(self.where)
        return time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--workload", default="ade20k-fake")
    arguments.add_argument("--recipe", default="00-mmseg-baseline")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--steps", type=int, default=8)
    chosen = arguments.parse_args()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    cores = () if kind == "cuda" else sorted(os.sched_getaffinity(0))[:1]
    where = device.set_up(kind, len(cores), False, cores)
    half = {"precision": "float32"} if kind == "cpu" else {}
    plain, system = Training(chosen, where, {**PLAIN, **half}, fused=False), {**PLAIN, **half}
    print(f"{chosen.workload}, {chosen.recipe}, on {device.facts(kind)['gpu'] or device.facts(kind)['cpu']}")
    for name, switch in ADDED:
        if kind == "cpu" and "precision" in switch:
            continue  # a CPU trains in float32
        system = {**system, **switch}
        fast = Training(chosen, where, system, fused=True)
        compare(name, plain, fast, chosen)
    tell_operators(fast)


def compare(name: str, plain: Training, fast: Training, chosen: argparse.Namespace) -> None:
    """Print how fast the two are, and the ratio round by round."""
    pairs = []
    for number in range(chosen.rounds):
        order = (plain, fast) if number % 2 == 0 else (fast, plain)
        seconds = {id(each): each.run(chosen.steps) for each in order}
        pairs.append((seconds[id(plain)], seconds[id(fast)]))
    images = chosen.steps * fast.learner.batch_size
    low, middle, high = statistics.quantiles([before / after for before, after in pairs], n=4)
    slow, rate = (images / statistics.median(each) for each in zip(*pairs, strict=True))
    print(
        f"+ {name}: plain {slow:.1f} img/s, now {rate:.1f} img/s, {middle:.3f} times (quartiles {low:.3f} to "
        f"{high:.3f}, n = {len(pairs)}){use(fast, rate)}, data wait "
        f"{100 * fast.waited / pairs[-1][1]:.2f} %",
        flush=True,
    )


def use(fast: Training, rate: float) -> str:
    """MFU at `rate` img/s, against the peaks that are known."""
    values, precision = fast.work.values, fast.learner.precision
    flops = model.training_flops(values["model"], fast.learner.classes, fast.learner.crop)
    peaks = {"measured": device.measured_peak_tflops(fast.where, precision)}
    if fast.where.type == "cuda":
        peaks["nominal"] = machine.nominal_peak_tflops(torch.cuda.get_device_name(), precision) or 0.0
    told = [f"{100 * rate * flops / 1e12 / peak:.1f} % of the {name}" for name, peak in peaks.items() if peak]
    return f", MFU {' and '.join(told)} peak"


def tell_operators(training: Training) -> None:
    """Print the operators that take the most time of a step."""
    cuda = training.where.type == "cuda"
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        training.run(3)
    spent = {
        each.key: each.self_device_time_total if cuda else each.self_cpu_time_total
        for each in seen.key_averages()
    }
    whole = sum(spent.values())
    for key in sorted(spent, key=lambda key: -spent[key])[:ROWS]:
        print(f"  {100 * spent[key] / whole:5.1f} %  {spent[key] / 3000:9.3f} ms a step  {key[:80]}")


if __name__ == "__main__":
    main()
