"""What do the operators of our own gain on a CPU, over a step and one by one?

    python benchmarks/operators.py [--workload mini] [--recipes 00-mmseg-baseline,07-no-sync-bn] [--rounds 40]

One process, pinned to one core, two live trainings of the workload on noise that take turns of one step each
(A B, B A, ...): with torch's own operators, and with those of `bench.operators`, all of them or all but one.
Prints the median time a step with torch's own, and the ratio to it: median and quartiles of the ratios of
neighbouring steps.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import device, noise, recipe, workload
from bench.batches import Batch
from bench.learner import Learner

WHERE = torch.device("cpu")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--workload", default="mini")
    arguments.add_argument("--recipes", default="00-mmseg-baseline,07-no-sync-bn")
    arguments.add_argument("--rounds", type=int, default=40)
    chosen = arguments.parse_args()
    device.set_up("cpu", 1, False, sorted(os.sched_getaffinity(0))[:1])
    for name in chosen.recipes.split(","):
        learner = Learner(recipe.load(name), workload.load(chosen.workload), 0, WHERE)
        batch = noise.batch(learner.batch_size, learner.crop, learner.classes, (0, 0, 0), WHERE)
        own = {"all": set(TORCHS), **{f"all but {each}": set(TORCHS) - {each} for each in TORCHS}}
        for what, ours in own.items():
            pairs = [turn(learner, batch, ours, number) for number in range(-2, chosen.rounds)][2:]
            ratios = [here / there for here, there in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            torchs = 1000 * statistics.median(there for _, there in pairs)
            print(
                f"{chosen.workload} {name}: torch's {torchs:.2f} ms a step; ours, {what}: {middle:.3f} of it "
                f"(quartiles {low:.3f} to {high:.3f}, n = {len(ratios)})",
                flush=True,
            )


def turn(learner: Learner, batch: Batch, ours: set[str], number: int) -> tuple[float, float]:
    """Seconds of a step with `ours`, and of one with torch's operators; who goes first changes each time."""
    ways = (ours, set()) if number % 2 else (set(), ours)
    found = []
    for chosen in ways:
        with torchs(set(TORCHS) - chosen):
            began = time.perf_counter()
            learner.train_step(batch, 0, 0.0)
            found.append(time.perf_counter() - began)
    return (found[0], found[1]) if number % 2 else (found[1], found[0])


@contextlib.contextmanager
def torchs(names: set[str]) -> Iterator[None]:
    """Within, the operators called `names` are torch's."""
    with contextlib.ExitStack() as exits:
        for name in names:
            exits.enter_context(mock.patch(*TORCHS[name]))
        yield


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The forward pass of torch's layer."""
    return nn.Conv2d.forward(layer, x)


def enlarge(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """torch's interpolation."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


TORCHS = {
    "convolutions": ("bench.operators.Conv2d.forward", convolve),
    "enlarge": ("bench.model.enlarge", enlarge),
}


if __name__ == "__main__":
    main()
