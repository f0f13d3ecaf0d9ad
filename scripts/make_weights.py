"""Make the two backbone weights of the embedded default: bench/weights/mini-v1.pt and mini-v2.pt.

    python scripts/make_weights.py                        # both, about a quarter of an hour on one CPU core
    python scripts/make_weights.py trial-adamw --out DIR  # any other plan below

The model of the workload `mini` learns to label collages (scripts/collages.py), from random weights, by a
plan: v1 a short plain one, v2 a longer and better one, in the spirit of torchvision's V1 and V2. Each plan is
judged on the same held-out collages; v2 is the plan that did best there, and nothing about `mini` has a say
in it. Only the backbone is kept, in half precision, its convolutions brought back to the norm they had at
the start.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs in a clone, installed or not

from bench import device, model, workload  # noqa: E402
from bench.batches import Batches  # noqa: E402
from bench.dataset import IGNORE  # noqa: E402
from bench.evaluate import Validation, evaluate, score  # noqa: E402
from bench.model import DeepLab  # noqa: E402
from scripts.collages import CLASSES, Collages  # noqa: E402

CPU = torch.device("cpu")
HELD_OUT = 1024  # collages
CROP = 48
AVERAGE_EVERY = 8  # steps


@dataclass(frozen=True)
class Plan:
    """How a backbone is trained beforehand; the defaults are v1's."""

    steps: int = 1600
    batch_size: int = 32
    collages: int = 1024
    optimizer: str = "sgd"  # or "adamw"
    lr: float = 0.05
    weight_decay: float = 1e-4
    schedule: str = "poly"  # or "cosine"
    warm_up: int = 0  # steps
    label_smoothing: float = 0.0
    average: float = 0.0  # decay a step of the running average of the weights; 0: none
    seed: int = 1

    def learning_rate(self, step: int) -> float:
        """Linear from 0 over the warm-up; poly to the power of 0.9, or cosine, down to 0."""
        if step < self.warm_up:
            return self.lr * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / (self.steps - self.warm_up)
        if self.schedule == "poly":
            return float(self.lr * (1 - progress) ** 0.9)
        return self.lr * (1 + math.cos(math.pi * progress)) / 2


V2 = Plan(
    steps=14000,
    collages=8192,
    lr=0.3,
    schedule="cosine",
    warm_up=400,
    average=0.999,
    seed=2,
)
TRIAL = replace(V2, steps=1600, warm_up=100, average=0.0)
PLANS = {
    "v1": Plan(),
    "v2": V2,
    # short trials that settled how v2 is trained; bench/weights/README.md has what they reached
    "trial-fast": TRIAL,
    "trial-slow": replace(TRIAL, lr=0.1),
    "trial-smoothing": replace(TRIAL, lr=0.1, label_smoothing=0.1),
    "trial-adamw": replace(TRIAL, optimizer="adamw", lr=3e-3, weight_decay=0.05),
}


def main() -> None:
    """Train by each plan named, print what it reached on the held-out collages, write its backbone."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("plans", nargs="*", default=["v1", "v2"], metavar="PLAN", help=", ".join(PLANS))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "weights", help="default: bench/weights")
    arguments = parser.parse_args()
    if unknown := set(arguments.plans) - set(PLANS):
        parser.error(f"no plan {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    device.set_up("cpu", 1, False)  # with one thread the same sums come out every time
    print(f"torch {torch.__version__}, {platform.machine()}, one thread", flush=True)
    held_out = Validation(Collages(0, "validation", HELD_OUT), "squash", CROP, 64)
    for name in arguments.plans:
        make(name, PLANS[name], held_out, arguments.out / f"mini-{name}.pt")


def make(name: str, plan: Plan, held_out: Validation, path: Path) -> None:
    """Train by `plan` and write the backbone to `path`; the accuracies printed are those of the file."""
    began = time.perf_counter()
    collages = Collages(plan.seed, "training", plan.collages)
    drawn = time.perf_counter()
    net = train(name, plan, collages, held_out)
    trained = time.perf_counter()
    restore_norms(net.backbone)
    state = half(net.backbone.state_dict())
    torch.save(state, path)
    net.backbone.load_state_dict(state)
    print(
        f"{name}: {describe(net, held_out)}; drawn in {drawn - began:.0f} s, "
        f"trained in {trained - drawn:.0f} s; {path} has {path.stat().st_size / 1000:.0f} kB",
        flush=True,
    )


def train(name: str, plan: Plan, collages: Collages, held_out: Validation) -> DeepLab:
    """The model of `mini` with as many classes as collages have, trained from random weights by `plan`."""
    torch.manual_seed(plan.seed)
    net = model.build(workload.load("mini").values["model"], len(CLASSES))
    net = net.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(plan, net)
    average = AveragedModel(
        net, multi_avg_fn=get_ema_multi_avg_fn(plan.average**AVERAGE_EVERY), use_buffers=True
    )
    batches = Batches(collages, CROP, plan.batch_size, plan.seed)
    began, shown = time.perf_counter(), max(1, plan.steps // 8)
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate(step)
        images, labels = batches.make(step).on(CPU)
        logits = net(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, label_smoothing=plan.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if plan.average and (step + 1) % AVERAGE_EVERY == 0:
            average.update_parameters(net)
        if (step + 1) % shown == 0:
            state = f"step {step + 1}, {time.perf_counter() - began:.0f} s, loss {loss.item():.3f}"
            print(f"{name}: {state}, {describe(net, held_out)}", flush=True)
    return cast(DeepLab, average.module) if plan.average else net


def build_optimizer(plan: Plan, net: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; batch norm and biases do not decay."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(groups, lr=plan.lr, fused=True)


def describe(net: DeepLab, held_out: Validation) -> str:
    """Both accuracies on the held-out collages, in words."""
    scores = score(evaluate(net, held_out, CPU, len(CLASSES)))
    return f"mIoU {scores['miou']:.2f}, pixel accuracy {scores['pixel_accuracy']:.2f}"


@torch.no_grad()
def restore_norms(backbone: nn.Module) -> None:
    """Bring each convolution back to the norm that Kaiming's initialisation gives it, sqrt(2 x its filters).

    A batch norm follows, and its running statistics take the factor out again, so in evaluation the function
    stays as it was. Large norms would slow down the training that starts here: behind a batch norm the
    gradient of a weight shrinks as the weight grows.
    """
    for convolution, norm in layers(backbone):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = math.sqrt(2 * convolution.out_channels) / convolution.weight.norm()
        convolution.weight *= factor
        norm.running_mean *= factor
        # eps takes no part in the scaling, so what it would have been is put into the variance
        norm.running_var.copy_((factor**2 * (norm.running_var + norm.eps) - norm.eps).clamp_min_(0))


def layers(backbone: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution with the batch norm behind it: both come in the same order."""
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    return zip(convolutions, norms, strict=True)


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in half precision; counters stay whole numbers."""
    return {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in state.items()
    }


if __name__ == "__main__":
    main()
