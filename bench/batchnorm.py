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

# A layer, the mean and the variance of its batch, and how much more the unbiased variance is.
Seen = tuple[Any, Tensor, Tensor, float]


def synchronise(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """`model` with its batch norms sharing their statistics over the group; the same parameters."""
    if group.devices == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for layer in model.modules():
            if isinstance(layer, nn.SyncBatchNorm):  # what is compiled leaves it as it is
                layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
        return model
    seen: list[Seen] = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm.like(child, group, seen))
    model.register_forward_hook(partial(_follow, seen))
    return model


class SyncBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) -> the same, normalised by the statistics of all devices while training.

    Its running statistics follow once the whole model has been passed, all layers together.
    """

    group: Group
    seen: list[Seen]  # by all layers, and not followed yet

    @classmethod
    def like(cls, layer: nn.BatchNorm2d, group: Group, seen: list[Seen]) -> SyncBatchNorm:
        """A layer with the parameters and buffers of `layer`."""
        made = cls(layer.num_features, layer.eps, layer.momentum)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        made.group, made.seen = group, seen
        return made.train(layer.training)

    @torch.compiler.disable  # it talks to other processes, and numpy computes a part
    @np.errstate(all="ignore")  # what leaves the numbers ends the run, as everywhere, by its loss
    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) weight + bias, with the mean and variance of all devices."""
        if not self.training:
            return super().forward(x)
        pixels, weight, devices = x.detach(), self.weight, self.group.devices
        own, spread = torch.batch_norm_update_stats(pixels, None, None, 0.0)  # mean and variance, in one pass
        said = self.group.collect(np.array((own.numpy(), spread.numpy())))
        mean, variance = together = reduce(add, said)
        together /= devices
        apart = (said[:, 0] - mean) ** 2
        variance += reduce(add, apart) / devices
        shared = torch.from_numpy(mean), torch.from_numpy(variance)
        count = x.numel() // len(mean) * devices
        self.seen.append((self, *shared, count / (count - 1)))
        out = torch.batch_norm(x, weight, self.bias, *shared, False, 0.0, self.eps, False)
        node = out.grad_fn
        if node is not None:
            known = self.group, pixels, weight.detach(), mean, variance + self.eps, count
            node.register_hook(partial(_through_statistics, *known))
        return out


@torch.compiler.disable
def _follow(seen: list[Seen], *_: Any) -> None:
    """Move the running statistics of all layers towards those of the batch just seen."""
    if not seen:  # the model evaluates
        return
    layers, means, variances, unbiased = zip(*seen, strict=True)
    variances = torch._foreach_mul(variances, unbiased)
    momenta = [layer.momentum for layer in layers]  # those of a backbone may differ from the head's
    torch._foreach_lerp_([layer.running_mean for layer in layers], means, momenta)
    torch._foreach_lerp_([layer.running_var for layer in layers], variances, momenta)
    torch._foreach_add_([layer.num_batches_tracked for layer in layers], 1)
    seen.clear()


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
