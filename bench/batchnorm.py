"""Batch norm over the whole global batch, whatever number of devices it lies on.

On CUDA it is torch's SyncBatchNorm. That has no CPU path, so a small layer does the same there: one packed
collective a layer and direction. Every device carries as many pixels as the others, so a mean of means is
the mean, and variances are combined as Chan, Golub and LeVeque do (1979). What has one value a channel is
numpy's, which takes a fraction of the time of torch for so little.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.group import Group
from bench.mailbox import Array


def synchronise(model: nn.Module, group: Group, device: torch.device, compiled: bool = False) -> nn.Module:
    """`model`, of which a step passes each batch norm once, with their statistics shared over the group.

    Its parameters stay the same; dtype and device of its buffers are no longer changed. `compiled`: it is
    going to be, all but these layers.
    """
    if group.devices == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        _replace(model, group)
    if compiled:
        for layer in model.modules():
            if isinstance(layer, (nn.SyncBatchNorm, SyncBatchNorm)):  # they talk to other processes
                layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    return model


def _replace(model: nn.Module, group: Group) -> None:
    layers = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                layers.append(SyncBatchNorm.like(child, group))
                setattr(parent, name, layers[-1])
    if layers:
        running = Running(layers)
        model.register_forward_hook(torch.compiler.disable(running.follow))


class SyncBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) -> the same, normalised by the statistics of all devices while training.

    Its running statistics follow once the whole model has been passed, all layers together.
    """

    group: Group
    running: Running
    place: slice  # of its channels among those of all layers

    @classmethod
    def like(cls, layer: nn.BatchNorm2d, group: Group) -> SyncBatchNorm:
        """A layer with the parameters and buffers of `layer`."""
        made = cls(layer.num_features, layer.eps, layer.momentum)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        made.group = group
        return made.train(layer.training)

    @np.errstate(all="ignore")  # what leaves the numbers ends the run, as everywhere, by its loss
    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) weight + bias, with the mean and variance of all devices."""
        if not self.training:
            return super().forward(x)
        pixels, weight, devices = x.detach(), self.weight, self.group.devices
        own, spread = torch.batch_norm_update_stats(pixels, None, None, 0.0)  # mean and variance, in one pass
        said = self.group.collect(np.array((own.numpy(), spread.numpy())))
        together = self.running.seen[:, self.place]
        mean, variance = np.divide(reduce(add, said), devices, out=together)
        apart = (said[:, 0] - mean) ** 2
        variance += reduce(add, apart) / devices
        count = x.numel() // len(mean) * devices
        self.running.unbiased[self.place] = count / (count - 1)
        shared = torch.from_numpy(mean), torch.from_numpy(variance)
        out, _, _ = torch.native_batch_norm(x, weight, self.bias, *shared, False, 0.0, self.eps)
        node = out.grad_fn
        if node is not None:
            known = self.group, pixels, weight.detach(), mean, variance + self.eps, count
            node.register_hook(partial(_through_statistics, *known))
        return out


class Running:
    """The running statistics of all layers, each kind in one piece of memory, so that they follow at once."""

    def __init__(self, layers: list[SyncBatchNorm]) -> None:
        self.mean = torch.cat([layer.get_buffer("running_mean") for layer in layers])
        self.variance = torch.cat([layer.get_buffer("running_var") for layer in layers])
        self.batches = torch.stack([layer.get_buffer("num_batches_tracked") for layer in layers])
        first, momenta = 0, []
        for number, layer in enumerate(layers):
            layer.running, layer.place = self, slice(first, first + layer.num_features)
            layer.running_mean, layer.running_var = self.mean[layer.place], self.variance[layer.place]
            layer.num_batches_tracked = self.batches[number]
            assert layer.momentum is not None  # which would be the mean of all batches so far
            momenta.append(torch.full_like(layer.running_mean, layer.momentum))
            first += layer.num_features
        self.momenta = torch.cat(momenta)  # those of a backbone may differ from the head's
        self.unbiased = np.ones(first, self.mean.numpy().dtype)  # how much more the unbiased variance is
        self._begin()

    def _begin(self) -> None:
        self.seen = np.empty((2, len(self.mean)), self.unbiased.dtype)  # mean and variance of the batch

    def follow(self, model: nn.Module, *_: Any) -> None:
        """Move them towards those of the batch that `model` has just been passed."""
        if not model.training:
            return
        mean, variance = self.seen
        self.mean.lerp_(torch.from_numpy(mean), self.momenta)
        self.variance.lerp_(torch.from_numpy(variance * self.unbiased), self.momenta)
        self.batches += 1
        self._begin()  # the backward pass may be still to come


@np.errstate(all="ignore")
def _through_statistics(
    group: Group,
    x: Tensor,
    weight: Tensor,
    mean: Array,
    variance: Array,
    count: int,
    grads: tuple[Tensor, Tensor, Tensor],
    _: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias as torch gives them where mean and variance are constants, with
    what comes through these added to the first.

    With g the gradient of y and h = (x - mean) inverse, torch's are weight inverse g, and the sums of g h
    and of g over this device's pixels. With means over all `count` pixels of all devices,
    dx = weight inverse (g - mean(g) - h mean(g h))  (Ioffe & Szegedy, 2015). `variance` is that with eps.
    """
    dx, gh, g = grads
    sums = reduce(add, group.collect(np.array((g.numpy(), gh.numpy()))))
    inverse = 1 / np.sqrt(variance)
    shift, tilt = sums * (inverse * weight.numpy() / count)
    tilt *= inverse
    shift -= tilt * mean
    shift, tilt = (torch.from_numpy(each.reshape(1, -1, 1, 1)) for each in (shift, tilt))
    return dx.sub_(shift).addcmul_(x, tilt, value=-1), gh, g
