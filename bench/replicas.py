"""The recipe's devices, on whatever hardware there is.

A step always consists of R replicas: the global batch is cut into R equal slices, the loss is the mean over
each slice's valid pixels, averaged over the slices. With synchronised batch norm all slices share their
statistics, so they go through the model together; without it each is normalised by itself, so they go one
after another and their gradients add up; running statistics then come from replica 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.dataset import IGNORE
from bench.model import DeepLab
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


def accumulate(
    model: DeepLab,
    images: Tensor,
    labels: Tensor,
    keep: Tensor,
    replicas: int,
    sync_bn: bool,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Add the gradients of one step to the parameters; return its loss, a scalar left on the device.

    `scale` is what a gradient scaler does to each loss before its backward pass.
    """
    if sync_bn:
        loss = slice_losses(model(images, keep), labels, replicas).mean()
        scale(loss).backward()
        return loss.detach()
    losses = []
    slices = zip(images.chunk(replicas), labels.chunk(replicas), keep.chunk(replicas), strict=True)
    for replica, (some_images, some_labels, some_keep) in enumerate(slices):
        with running_statistics(model, update=replica == 0):
            loss = slice_losses(model(some_images, some_keep), some_labels, 1).mean() / replicas
        scale(loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


@contextmanager
def running_statistics(model: nn.Module, update: bool) -> Iterator[None]:
    """Within, batch norm in training mode leaves its running statistics alone unless `update`."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.track_running_stats = update
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
