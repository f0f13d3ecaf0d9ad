"""Operators that torch computes slowly on a CPU, computed another way there: the same up to rounding.

Elsewhere they are torch's own. What each gains is measured by `benchmarks/operators.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MATRIX_SIDE = 32  # of the maps up to which products of matrices enlarge faster than interpolation


class Conv2d(nn.Conv2d):
    """torch's convolution, with two ways of its own for channels-last maps on a CPU.

    1 x 1 is a product of matrices. The gradient of a dilated depthwise 3 x 3, for which oneDNN has no fast
    way, is a convolution with the mirrored kernel and a sum for each of the nine taps.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type != "cpu" or torch.compiler.is_compiling()  # a compiler has ways of its own
        if plain or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        if self.kernel_size == self.stride == (1, 1) and self.groups == 1:
            # not flattened at once: the gradient would lie in memory otherwise than the weight
            weight = self.weight.permute(0, 2, 3, 1).flatten(1)
            return F.linear(x.permute(0, 2, 3, 1), weight, self.bias).permute(0, 3, 1, 2)
        if self._is_dilated_depthwise():
            return _Depthwise.apply(x, self.weight, self.dilation[0])
        return super().forward(x)

    def _is_dilated_depthwise(self) -> bool:
        rate = self.dilation[0]
        return (
            self.groups == self.in_channels == self.out_channels
            and self.kernel_size == (3, 3)
            and self.dilation == self.padding == (rate, rate) > (1, 1)
            and self.stride == (1, 1)
            and self.bias is None
        )


class _Depthwise(torch.autograd.Function):
    """(N, C, H, W) and (C, 1, 3, 3) -> (N, C, H, W): padded by the dilation, without bias, at stride 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rate: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rate = rate
        return F.conv2d(x, weight, None, 1, rate, rate, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        rate, (channels, height, width) = ctx.rate, x.shape[1:]
        grad_x = F.conv2d(grad, weight.flip(2, 3), None, 1, rate, rate, channels)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, rate, rate, rate, rate))
        grad, offsets = grad.permute(0, 2, 3, 1), (0, rate, 2 * rate)
        taps = [
            (padded[:, top : top + height, left : left + width] * grad).sum((0, 1, 2))
            for top in offsets
            for left in offsets
        ]
        grad_weight = torch.stack(taps, 1).view(channels, 3, 3, 1).permute(0, 3, 1, 2)  # channels last, too
        return grad_x, grad_weight, None


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, C, h, w) at another size: bilinear, corners not aligned.

    On a CPU small maps are multiplied by two matrices, and come as planes, which a softmax over them takes
    without copying.
    """
    plain = maps.device.type != "cpu" or torch.compiler.is_compiling()
    if plain or max(maps.shape[2:]) > MATRIX_SIDE:
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
    rows, columns = (
        _weights(before, after, maps.dtype) for before, after in zip(maps.shape[2:], size, strict=True)
    )
    return rows @ (maps.contiguous() @ columns.T)


@lru_cache(maxsize=8)
def _weights(before: int, after: int, dtype: torch.dtype) -> Tensor:
    """(after, before): what each value of a line gives to each of the enlarged line."""
    with torch.inference_mode(False):  # they outlive an evaluation
        unit = torch.eye(before, dtype=dtype)
        return F.interpolate(unit[None], size=after, mode="linear", align_corners=False)[0].T.contiguous()
