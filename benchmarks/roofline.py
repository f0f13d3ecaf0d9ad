"""How far is a training step from what the device could do, by class of operator?

    python benchmarks/roofline.py [--workload NAME] [--recipe 11-channels-last] [--steps 10] [--out FILE]

Counts the FLOPs and the bytes of every operator of one step on noise, as it is computed on this device: what
each reads and writes once, as if no cache kept anything from one to the next. Measures the peak (large matrix
products) and the bandwidth (copies of a large block), then the step. For each class of operators it prints
the floor of each resource, the time spent, and the gap: time over the higher floor. A class that is faster
than its floor of bytes found them in the cache. What is compiled has no operators to count. On a GPU the
workload is ade20k-fake, on a CPU `mini`, one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from step import operators, set_up, use
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench import device, noise, recipe, workload
from bench.batches import Batch
from bench.learner import Learner

# The first class of which a part stands in the operator's name; what is in none is "other".
CLASSES = {
    "allocation": ("empty", "resize_"),
    "convolution": ("conv",),
    "matrix product": ("mm", "matmul", "linear"),
    "batch norm": ("batch_norm",),
    "interpolation": ("upsample",),
    "softmax and loss": ("softmax", "nll_loss", "cross_entropy"),
    "optimiser": ("sgd", "foreach"),
    "pooling": ("pool",),
    "moving": ("copy", "clone", "cat", "index", "fill", "zero", "flip", "pad", "stack", "contiguous"),
    "elementwise": (
        "add", "sub", "mul", "div", "relu", "threshold", "clamp", "where", "lerp", "sum", "mean", "max",
        "min", "lt", "eq", "ne", "ge", "remainder", "bitwise", "rshift", "abs",
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
        found = class_of(function.__name__)
        if not function.is_view and found != "allocation":
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
    arguments.add_argument("--workload")
    arguments.add_argument("--recipe", default="11-channels-last")
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--out", type=Path, help="a JSON file for the figures")
    chosen = arguments.parse_args()
    where, around = set_up()
    work = workload.load(chosen.workload or ("ade20k-fake" if where.type == "cuda" else "mini"))
    rung = recipe.load(chosen.recipe)
    if workload.system(work, rung)["compile"]:
        raise SystemExit(f"{rung.name} is compiled: it has no operators to count")
    learner = Learner(rung, work, 0, where)
    learner.warm_up([])
    batch = noise.batch(learner.batch_size, learner.crop, learner.classes, (0, 0, 0), where)
    with Count() as counted:
        learner.train_step(batch, 0, 0.0)
    times = [time_step(learner, batch) for _ in range(chosen.steps)]
    spent: Counter[str] = Counter()
    for operator, seconds in operators(lambda: learner.train_step(batch, 0, 0.0), where).items():
        spent[class_of(operator) if operator.startswith("aten::") else "other"] += seconds
    found = {
        "with": around,
        "steps_s": times,
        "bandwidth_gb_s": bandwidth(where) / 1e9,
        **use(learner, work, learner.batch_size / statistics.median(times)),
        "classes": {
            kind: {"flops": counted.flops[kind], "bytes": counted.bytes[kind], "share": share / spent.total()}
            for kind, share in spent.most_common()
        },
    }
    print(f"{work.name}, {rung.name}; " + ", ".join(f"{name} {value}" for name, value in around.items()))
    tell(found)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


def time_step(learner: Learner, batch: Batch) -> float:
    """Seconds of a step."""
    device.wait_for(learner.device)
    began = time.perf_counter()
    learner.train_step(batch, 0, 0.0)
    device.wait_for(learner.device)
    return time.perf_counter() - began


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


def tell(found: dict[str, Any]) -> None:
    """Print a row a class, most time first, and their sum."""
    low, step, high = (1e3 * seconds for seconds in statistics.quantiles(found["steps_s"], n=4))
    peak, pace = found["peak_measured_tflops"] * 1e9, found["bandwidth_gb_s"] * 1e6  # a millisecond
    print(
        f"a step {step:.1f} ms (quartiles {low:.1f} to {high:.1f}, n = {len(found['steps_s'])}); "
        f"measured peak {found['peak_measured_tflops']:.3f} TFLOP/s, "
        f"bandwidth {found['bandwidth_gb_s']:.1f} GB/s; MFU {found['mfu_pct']:.1f} %"
    )
    print("class                  GFLOP         MB  floor FLOPs  floor bytes     measured     gap")
    rows = [
        (kind, each["flops"], each["bytes"], step * each["share"]) for kind, each in found["classes"].items()
    ]
    whole = sum(max(flops / peak, moved / pace) for _, flops, moved, _ in rows)
    rows.append(("all", sum(each[1] for each in rows), sum(each[2] for each in rows), step))
    for kind, flops, moved, spent in rows:
        lowest = whole if kind == "all" else max(flops / peak, moved / pace)
        gap = f"{spent / lowest:6.1f}x" if lowest > spent / 1000 else "      –"
        print(
            f"{kind:16} {flops / 1e9:11.3f} {moved / 1e6:10.2f} {flops / peak:9.3f} ms "
            f"{moved / pace:9.3f} ms {spent:9.3f} ms {gap}"
        )
    print("the gap of all is to the sum of the higher floors of the classes")


if __name__ == "__main__":
    main()
