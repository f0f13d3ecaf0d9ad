"""How far is a training step from what the device could do, and where does the time go?

    python benchmarks/roofline.py [--workload mini] [--recipe 00-mmseg-baseline] [--steps 20] [--threads 1]

Counts the FLOPs and the bytes of every operator of one step on noise, as it is computed on this device: what
each reads and writes once, nothing kept in a cache from one to the next. Measures the peak (large matrix
products) and the bandwidth (copies of a large block), then the step. For each class of operators it prints
the floor of each resource, the time spent, and the gap: time over the higher floor. A class that is faster
than its floor of bytes found them in the cache. Compilation is left off: it has no operators to count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench import device, model, noise, recipe, workload
from bench.learner import Learner

# The first class of which a part stands in the operator's name; what is in none is "other".
CLASSES = {
    "convolution": ("conv",),
    "matrix product": ("mm", "matmul", "linear"),
    "batch norm": ("batch_norm",),
    "interpolation": ("upsample",),
    "softmax and loss": ("softmax", "nll_loss", "cross_entropy"),
    "optimiser": ("sgd", "foreach"),
    "moving": ("copy", "clone", "cat", "index", "fill", "zero", "flip", "pad", "stack", "contiguous"),
    "pooling": ("pool",),
    "elementwise": (
        "add", "sub", "mul", "div", "relu", "threshold", "clamp", "where", "lerp", "sum", "mean", "max",
        "min", "lt", "eq", "ne", "ge", "remainder", "bitwise",
    ),
}  # fmt: skip


class Count(TorchDispatchMode):
    """Within, counts FLOPs and bytes by class of operator."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            found = class_of(function.__name__)
            count = flop_registry.get(function.overloadpacket)
            if count:
                self.flops[found] += count(*args, **(kwargs or {}), out_val=result)
            leaves = tree_leaves((args, kwargs, result))
            tensors = {id(each): each for each in leaves if isinstance(each, Tensor)}
            self.bytes[found] += sum(each.nbytes for each in tensors.values())
        return result


def class_of(name: str) -> str:
    """The class of an operator, by its name."""
    fitting = (kind for kind, parts in CLASSES.items() if any(part in name.lower() for part in parts))
    return next(fitting, "other")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--workload", default="mini")
    arguments.add_argument("--recipe", default="00-mmseg-baseline")
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--threads", type=int, default=1, help="of a CPU")
    chosen = arguments.parse_args()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    cores = () if kind == "cuda" else sorted(os.sched_getaffinity(0))[: chosen.threads]
    where = device.set_up(kind, len(cores), False, cores)
    work = workload.load(chosen.workload)
    learner = Learner(recipe.load(chosen.recipe), work, 0, where)
    batch = noise.batch(learner.batch_size, learner.crop, learner.classes, (0, 0, 0), where)
    for _ in range(3):
        learner.train_step(batch, 0, 0.0)
    with Count() as counted:
        learner.train_step(batch, 0, 0.0)
    step = time_step(learner, batch, chosen.steps)
    spent = time_classes(learner, batch, chosen.steps)
    precision = "tf32" if kind == "cuda" and learner.precision == "float32" else learner.precision
    peak, pace = device.measured_peak_tflops(where, precision) * 1e12, bandwidth(where)
    facts = device.facts(kind)
    print(f"{work.name}, {chosen.recipe}, {facts['gpu'] or facts['cpu']}, {len(cores) or 'torch'} threads")
    print(f"measured peak {peak / 1e12:.3f} TFLOP/s ({precision}), bandwidth {pace / 1e9:.1f} GB/s")
    tell(counted, step, spent, peak, pace)
    flops = model.training_flops(work.values["model"], learner.classes, learner.crop) * learner.batch_size
    print(
        f"MFU {100 * flops / peak / step:.1f} % of the measured peak: {flops / 1e9:.3f} GFLOP of the layers"
    )


def time_step(learner: Learner, batch: Any, steps: int) -> float:
    """Median seconds of a step."""
    found = []
    for _ in range(steps):
        device.wait_for(learner.device)
        began = time.perf_counter()
        learner.train_step(batch, 0, 0.0)
        device.wait_for(learner.device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def time_classes(learner: Learner, batch: Any, steps: int) -> dict[str, float]:
    """The share of the operators' time that each class takes, on the device itself."""
    cuda = learner.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as seen:
        for _ in range(steps):
            learner.train_step(batch, 0, 0.0)
        device.wait_for(learner.device)
    spent: Counter[str] = Counter()
    for each in seen.key_averages():
        if each.device_type == DeviceType.CPU:  # of a kernel, the operator that started it
            name = class_of(each.key) if each.key.startswith("aten::") else "other"
            spent[name] += each.self_device_time_total if cuda else each.self_cpu_time_total
    whole = sum(spent.values())
    return {name: value / whole for name, value in spent.items()}


def bandwidth(where: torch.device) -> float:
    """Bytes read and written a second by the fastest of a few copies of a block that fits no cache."""
    block = torch.zeros(2**28 if where.type == "cuda" else 2**25, device=where)
    target, best = torch.empty_like(block), float("inf")
    for _ in range(6):
        device.wait_for(where)
        began = time.perf_counter()
        target.copy_(block)
        device.wait_for(where)
        best = min(best, time.perf_counter() - began)
    return 2 * block.nbytes / best


def tell(counted: Count, step: float, spent: dict[str, float], peak: float, pace: float) -> None:
    """Print a row a class, most time first, and their sum."""
    print("class                 GFLOP       MB  floor FLOPs  floor bytes   measured    gap")
    kinds = sorted({*spent, *counted.bytes}, key=lambda kind: -spent.get(kind, 0.0))
    rows = [(kind, counted.flops[kind], counted.bytes[kind], step * spent.get(kind, 0.0)) for kind in kinds]
    floor = sum(max(flops / peak, moved / pace) for _, flops, moved, _ in rows)
    rows.append(("all", counted.flops.total(), counted.bytes.total(), step))
    for kind, flops, moved, seconds in rows:
        lowest = floor if kind == "all" else max(flops / peak, moved / pace)
        gap = f"{seconds / lowest:5.1f}x" if lowest else "     –"
        print(
            f"{kind:18} {flops / 1e9:8.3f} {moved / 1e6:8.2f} {1000 * flops / peak:9.3f} ms "
            f"{1000 * moved / pace:9.3f} ms {1000 * seconds:7.3f} ms {gap}"
        )
    print("the gap of all is to the sum of the higher floors of the classes")


if __name__ == "__main__":
    main()
