"""What does each switch of [system] gain over a step, how much of the device is used, and where does time go?

    python benchmarks/step.py [--workload NAME] [--rounds 12] [--steps 2] [--out FILE]

One process, two live trainings on noise that take turns (A B, B A, ...) of a few steps. A is what the blog
ran: eager, channels first, the workload's precision, an optimiser that is not fused. B has one switch more
each time: a fused optimiser, then the rungs of recipes/speed that the device can train, then the last of them
in other modes of torch.compile, of which "reduce-overhead" is CUDA graphs. On a GPU the workload is
ade20k-fake, 16 images a replica; on a CPU `mini`, one core, without the other modes. Prints img/s of both
and the median ratio of neighbouring turns with its quartiles, the share of time spent waiting for a batch,
and FLOPs against the measured and the nominal peak; at last the operators that take the most time.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench import BenchError, device, machine, model, noise, recipe, workload
from bench.learner import Learner
from bench.recipe import Recipe
from bench.workload import Workload

MODES = ("reduce-overhead", "max-autotune-no-cudagraphs")
FACTS = ("gpu", "driver", "cuda", "cudnn", "cpu", "threads", "python", "torch", "git_commit", "git_dirty")
ROWS = 12  # of the profile


class Training:
    """A live training on noise; `mode` is of torch.compile, `waited` seconds of waiting for batches."""

    def __init__(
        self, rung: Recipe, work: Workload, where: torch.device, *, fused: bool = True, mode: str = ""
    ) -> None:
        compiler = functools.partial(torch.compile, mode=mode)
        with mock.patch("torch.compile", compiler) if mode else contextlib.nullcontext():
            self.learner = Learner(rung, work, 0, where)
        if mode == "reduce-overhead":  # its graph, run again for the next slice, writes over its gradients
            for parameter in self.learner.model.parameters():
                parameter.register_hook(torch.clone)
        self.work, self.where, self.step, self.waited = work, where, 0, 0.0
        began = time.perf_counter()
        self.learner.warm_up([])
        self.set_up_s = time.perf_counter() - began
        if not fused:
            for group in self.learner.optimizer.param_groups:
                group["fused"] = False
            self.learner.optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
            self.run(1)

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        learner = self.learner
        device.wait_for(self.where)
        began = time.perf_counter()
        for _ in range(steps):
            self.step += 1
            asked = time.perf_counter()
            address = (0, 0, self.step)
            batch = noise.batch(learner.batch_size, learner.crop, learner.classes, address, self.where)
            self.waited += time.perf_counter() - asked
            learner.train_step(batch, self.step, 1e-4)
        device.wait_for(self.where)
        return time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--workload")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--steps", type=int, default=2, help="of a turn")
    arguments.add_argument("--out", type=Path, help="a JSON file for the figures of every round")
    chosen = arguments.parse_args()
    where, around = set_up()
    work = workload.load(chosen.workload or ("ade20k-fake" if where.type == "cuda" else "mini"))
    print(f"{work.name}; " + ", ".join(f"{name} {value}" for name, value in around.items()), flush=True)
    rungs = recipe.select(["speed/all"])
    plain = Training(rungs[0], work, where, fused=False)
    sides: list[tuple[str, Recipe, str]] = [("fused optimiser", rungs[0], "")]
    for rung in rungs[1:]:
        try:
            recipe.check(rung, work, where.type)
        except BenchError as error:
            print(f"not measured: {error.message}")
        else:
            sides.append((rung.name, rung, ""))
    if where.type == "cuda":
        sides += [(f"{rungs[-1].name}, {mode}", rungs[-1], mode) for mode in MODES]
    rows, spent = [], {}
    for name, rung, mode in sides:
        fast = Training(rung, work, where, mode=mode)
        rows.append({"side": name, **compare(plain, fast, chosen.rounds, chosen.steps)})
        tell(rows[-1], fast)
        if not mode:
            spent = operators(functools.partial(fast.run, chosen.steps), where)
        del fast
        torch.compiler.reset()
    whole = sum(spent.values())
    for operator in sorted(spent, key=lambda each: -spent[each])[:ROWS]:
        share, ms = spent[operator] / whole, 1000 * spent[operator] / chosen.steps
        print(f"  {100 * share:5.1f} %  {ms:9.3f} ms a step  {operator[:80]}")
    if chosen.out:
        what = f"seconds a turn of {chosen.steps} steps; plain and the side take turns"
        chosen.out.write_text(json.dumps({"what": what, "with": around, "sides": rows}, indent=1) + "\n")


def set_up() -> tuple[torch.device, dict[str, Any]]:
    """The GPU, or one core where there is none; and what there is to say of machine and versions."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    cores = () if kind == "cuda" else sorted(os.sched_getaffinity(0))[:1]
    where, facts = device.set_up(kind, len(cores), False, cores), device.facts(kind)
    return where, {name: facts[name] for name in FACTS if facts[name] is not None}


def compare(plain: Training, fast: Training, rounds: int, steps: int) -> dict[str, Any]:
    """The seconds of each turn, and what goes with them."""
    turns: dict[str, list[float]] = {"plain": [], "fast": []}
    sides = [("plain", plain), ("fast", fast)]
    fast.waited = 0.0
    for number in range(rounds):
        for name, training in sides if number % 2 == 0 else sides[::-1]:
            turns[name].append(training.run(steps))
    images = steps * fast.learner.batch_size
    return {
        "plain_s": turns["plain"],
        "fast_s": turns["fast"],
        "images": images,
        "set_up_s": fast.set_up_s,
        "data_wait_pct": 100 * fast.waited / sum(turns["fast"]),
        **use(fast.learner, fast.work, images / statistics.median(turns["fast"])),
    }


def use(learner: Learner, work: Workload, rate: float) -> dict[str, float]:
    """The measured peak, and MFU at `rate` img/s against it and, where it is known, the nominal one."""
    gpu = torch.cuda.get_device_name() if learner.device.type == "cuda" else None
    # torch lets convolutions round to TF32 where it may
    precision = "tf32" if gpu and learner.precision == "float32" else learner.precision
    peak = device.measured_peak_tflops(learner.device, precision)
    nominal = machine.nominal_peak_tflops(gpu, precision) if gpu else None
    flops = model.training_flops(work.values["model"], learner.classes, learner.crop)
    found = {"peak_measured_tflops": peak, "mfu_pct": 100 * rate * flops / 1e12 / peak}
    return found | ({"mfu_nominal_pct": 100 * rate * flops / 1e12 / nominal} if nominal else {})


def operators(work: Callable[[], object], where: torch.device) -> dict[str, float]:
    """Seconds of `work` that each operator takes, on a GPU those of the kernels that it starts."""
    cuda = where.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        work()
        device.wait_for(where)
    return {
        each.key: 1e-6 * (each.self_device_time_total if cuda else each.self_cpu_time_total)
        for each in seen.key_averages()
        if each.device_type == DeviceType.CPU
    }


def tell(row: Mapping[str, Any], fast: Training) -> None:
    """Print a side."""
    pairs = list(zip(row["plain_s"], row["fast_s"], strict=True))
    low, middle, high = statistics.quantiles([before / after for before, after in pairs], n=4)
    slow, rate = (row["images"] / statistics.median(each) for each in zip(*pairs, strict=True))
    shares = [f"{name} {row[name]:.1f}" for name in ("mfu_pct", "mfu_nominal_pct") if name in row]
    print(
        f"{row['side']}: {rate:.1f} img/s, plain {slow:.1f}: {middle:.3f} times (quartiles {low:.3f} to "
        f"{high:.3f}, n = {len(pairs)}); {', '.join(shares)}; data wait {row['data_wait_pct']:.2f} %; "
        f"set-up {row['set_up_s']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
