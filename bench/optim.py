"""Optimisers and schedules of the ladder.

One parameter group: decay reaches batch norm and biases too. The learning rate is a function of the step
alone, so that a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class DecoupledSGD(torch.optim.SGD):
    """SGD whose weight decay follows the schedule, not the learning rate.

    v = momentum v + grad;  p *= 1 - (lr_t / lr_0) wd;  p -= lr_t v  (Loshchilov & Hutter, 2019, in Composer's
    form). Decay of strength wd here is about that of wd (1 - momentum) / lr_0 in coupled SGD.
    """

    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float, **options: Any) -> None:
        super().__init__(params, lr=lr, momentum=momentum, **options)
        self.decay, self.first_lr = weight_decay, lr

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Decay, then a step of plain SGD; neither where a gradient scaler found an infinity."""
        found_inf = getattr(self, "found_inf", None)  # a GradScaler lets a fused step see for itself
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            decay = group["lr"] / self.first_lr * self.decay
            torch._foreach_mul_(params, 1 - (decay if found_inf is None else decay * (found_inf == 0)))
        return super().step(closure)


def build(settings: Mapping[str, Any], model: nn.Module) -> torch.optim.SGD:
    """The optimiser that the `[optim]` section of a recipe describes, over all parameters of `model`."""
    kind = {"sgd": torch.optim.SGD, "decoupled_sgd": DecoupledSGD}[settings["optimizer"]]
    return kind(
        model.parameters(),
        lr=settings["lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        fused=True,
    )


def learning_rate(settings: Mapping[str, Any], step: int, steps: int) -> float:
    """The learning rate of step 0 <= `step` < `steps`: the initial one times poly or cosine.

    With progress t = step / steps and end factor e: poly is e + (1 - e)(1 - t)^power, cosine is
    e + (1 - e)(1 + cos(pi t)) / 2 (Loshchilov & Hutter, 2017, without restarts).
    """
    progress, end = step / steps, settings["end_factor"]
    if settings["schedule"] == "poly":
        shape = (1 - progress) ** settings["power"]
    else:
        shape = (1 + math.cos(math.pi * progress)) / 2
    return float(settings["lr"] * (end + (1 - end) * shape))
