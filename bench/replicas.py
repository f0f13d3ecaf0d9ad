"""The recipe's devices, on whatever hardware there is.

A step always consists of R replicas: the global batch is cut into R equal slices, the loss is the mean over
each slice's valid pixels, averaged over the slices. With synchronised batch norm all slices share their
statistics, so they go through the model together; without it each is normalised by itself, so they go one
after another and their gradients add up; running statistics then come from replica 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.dataset import IGNORE
from bench.streams import DROPOUT, stream


def dropout_mask(seed: int, step: int, count: int, channels: int, dropout: float) -> Tensor:
    """(count, channels) bool: the channels that stay, a row a position in the global batch of `step`."""
    return torch.from_numpy(stream(seed, DROPOUT, step).random((count, channels)) >= dropout)


def slice_losses(logits: Tensor, labels: Tensor, replicas: int) -> Tensor:
    """(replicas,) cross-entropy, mean over the valid pixels of each slice; 0 where a slice has none.

    logits (N, classes, H, W), labels (N, H, W) with N a multiple of `replicas`.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").view(replicas, -1)
    return losses.sum(1) / (labels != IGNORE).view(replicas, -1).sum(1).clamp(min=1)


class Objective(nn.Module):
    """What a step makes small: the loss of `model`, as the mean over some slices of a batch.

    A module, so that model and loss can be compiled as one, and shared by devices as one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor, keep: Tensor, replicas: int) -> Tensor:
        """A scalar; the arguments are those of the model and of `slice_losses`."""
        return slice_losses(self.model(images, keep), labels, replicas).mean()


def accumulate(
    objective: nn.Module,
    images: Tensor,
    labels: Tensor,
    keep: Tensor,
    replicas: int,
    sync_bn: bool,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    leads: bool = True,
) -> Tensor:
    """Add the gradients of one step to the parameters; return its loss, a scalar left on the device.

    Images, labels and masks are those of the `replicas` that this device carries; `leads`: replica 0 is the
    first of them. `objective` is an `Objective` as `Group.wrap` gave it, compiled or not. The loss is the
    mean over these replicas; `scale` is what a gradient scaler does to each before its backward pass.
    """
    if sync_bn:
        loss = objective(images, labels, keep, replicas)
        scale(loss).backward()
        return loss.detach()
    losses = []
    slices = zip(images.chunk(replicas), labels.chunk(replicas), keep.chunk(replicas), strict=True)
    with ExitStack() as exits:
        for replica, (some_images, some_labels, some_keep) in enumerate(slices):
            if replica == int(leads):  # running statistics are replica 0's
                exits.enter_context(kept_statistics(objective))
            with exchange(objective, now=replica == replicas - 1):
                loss = objective(some_images, some_labels, some_keep, 1) / replicas
                scale(loss).backward()
            losses.append(loss.detach())
    return torch.stack(losses).sum()


def exchange(objective: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Within, devices average the gradients in a backward pass only if `now`: once a step is enough."""
    pause: Callable[[], AbstractContextManager[None]] = nullcontext
    if not now:  # DistributedDataParallel has it, compiled or not
        pause = getattr(objective, "no_sync", nullcontext)
    return pause()


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Within, batch norm in training mode leaves its running statistics alone."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
