"""The training transform: resize, crop, flip, photometric, pad, normalise.

Two halves. Geometry is decided and done a sample at a time on the CPU, on 8-bit pictures, and only what the
crop shows is resized. Colour and normalisation are done a batch at a time on the device. All random numbers
of a sample are one row of uniforms from its own stream, so that they hang on (seed, epoch, index) alone.
Values follow the blog's baseline: the photometric steps are those of torchvision's ColorJitter, each with
probability one half; contrast comes either before saturation and hue or after them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.dataset import IGNORE

SCALE = (0.5, 2.0)
MAX_SHARE, TRIES = 0.75, 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 18 / 255
FILL = (123, 116, 103)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY = (0.2989, 0.587, 0.114)

_GEOMETRY = 2 + 2 * TRIES  # scale, flip, then y and x of every try
DRAWS = _GEOMETRY + 9  # then a coin and a strength for each of four photometric steps, and their order


@dataclass(frozen=True)
class Crop:
    """A crop window in the picture resized to (side, side), and whether it is mirrored."""

    side: int
    top: int
    left: int
    flip: bool

    def box(self, size: tuple[int, int], extent: int) -> tuple[float, float, float, float]:
        """The window, `extent` pixels wide and high, in the coordinates of the picture before resizing."""
        edges = (self.left, self.top, self.left + extent, self.top + extent)
        left, top, right, bottom = (
            edge * length / self.side for edge, length in zip(edges, size * 2, strict=True)
        )
        return left, top, right, bottom  # products first, so that rounding puts no edge outside the picture


def crop_sample(
    image: Image.Image,
    label: Image.Image,
    size: int,
    uniforms: np.ndarray,
    out: np.ndarray,
    out_label: np.ndarray,
) -> tuple[int, int]:
    """Write the geometric half of a sample into `out` (size, size, 3) and `out_label` (size, size), uint8.

    The picture is squashed to a square of `size` times U(0.5, 2); a window with less than three quarters of
    one class is looked for ten times (else the last one is taken); what is smaller is centred on FILL.
    Returns where the picture lies within the crop: its first row and column, and how many there are.
    """
    side = round(size * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniforms[0]))
    extent = min(side, size)
    for attempt in range(TRIES if side > size else 1):
        y, x = uniforms[2 + 2 * attempt : 4 + 2 * attempt]
        crop = Crop(side, int(y * (side - extent + 1)), int(x * (side - extent + 1)), bool(uniforms[1] < 0.5))
        window = label.resize((extent, extent), Image.Resampling.NEAREST, crop.box(label.size, extent))
        if _is_mixed(window):
            break
    picture = image.resize((extent, extent), Image.Resampling.BILINEAR, crop.box(image.size, extent))
    pad = (size - extent) // 2
    if extent < size:
        out[:], out_label[:] = FILL, IGNORE
    inside = slice(pad, pad + extent)
    step = -1 if crop.flip else 1
    out[inside, inside] = np.asarray(picture)[:, ::step]
    out_label[inside, inside] = np.asarray(window)[:, ::step]
    return pad, extent


def _is_mixed(window: Image.Image) -> bool:
    """Whether every class covers less than MAX_SHARE of the pixels that have one."""
    counts = window.histogram()[:IGNORE]
    return max(counts) < MAX_SHARE * sum(counts)


def color(images: Tensor, uniforms: Tensor, places: Tensor) -> Tensor:
    """The photometric half and normalisation: (N, 3, S, S) uint8 -> float32 planes, on the images' device.

    `uniforms` (N, 9) are the last draws of each sample and `places` (N, 2) what `crop_sample` returned, both
    on the CPU, where it is decided what to do: the device is never asked. Each step touches only the samples
    that it changes, and works on planes: channels beside one another would be read three apart.
    """
    device = images.device
    coins, strengths = uniforms[:, 0:8:2] < 0.5, 2 * uniforms[:, 1:8:2] - 1
    late = uniforms[:, 8] < 0.5
    change = strengths * torch.tensor((BRIGHTNESS, CONTRAST, SATURATION, HUE))
    factors = (1 + change).T.reshape(4, -1, 1, 1, 1).to(device)
    shift = change[:, 3].to(device)
    inside = _inside(places.to(device), images.shape[-1])
    fill = torch.tensor(FILL, device=device).view(1, 3, 1, 1) / 255

    def contrast(some: Tensor, rows: Tensor) -> Tensor:
        return adjust_contrast(some, factors[1][rows], inside[rows])

    x = images.contiguous() / 255
    _change(x, coins[:, 0], lambda some, rows: (some * factors[0][rows]).clamp_(0, 1))
    _change(x, coins[:, 1] & ~late, contrast)
    _change(x, coins[:, 2], lambda some, rows: torch.lerp(gray(some), some, factors[2][rows]).clamp_(0, 1))
    _change(x, coins[:, 3], lambda some, rows: shift_hue(some, shift[rows]))
    _change(x, coins[:, 1] & late, contrast)
    _change(x, places[:, 1] < x.shape[-1], lambda some, rows: torch.where(inside[rows], some, fill))
    return normalise_unit(x)


def _change(x: Tensor, chosen: Tensor, how: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the `chosen` samples, a mask on the CPU, by `how` of them and their row numbers."""
    rows = chosen.nonzero().view(-1)
    if len(rows):
        rows = rows.to(x.device, non_blocking=True)
        x[rows] = how(x[rows], rows)


def normalise(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 with ImageNet's mean and deviation taken out."""
    return normalise_unit(images / 255)


def normalise_unit(x: Tensor) -> Tensor:
    """The same for values in 0..1; works in place."""
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return x.sub_(mean).div_(std)


def gray(x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), the weights of ITU-R 601 as torchvision rounds them."""
    red, green, blue = x.unbind(1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2]).unsqueeze(1)


def adjust_contrast(x: Tensor, factor: Tensor, inside: Tensor) -> Tensor:
    """Blend each picture with its own mean gray, taken over the pixels that are `inside` (N, 1, H, W)."""
    mean = (gray(x) * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True)
    return torch.lerp(mean, x, factor).clamp_(0, 1)


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of (N, 3, H, W) in 0..1 by `shift` (N,) turns, saturation and value kept (HSV).

    Uses f(n) = v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6 for n = 5, 3, 1.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(value == green, (blue - red) / scale + 2, (red - green) / scale + 4)
    sixth = torch.where(value == red, (green - blue) / scale, sixth) + 6 * shift.view(-1, 1, 1)
    turned = torch.empty_like(x)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        k = (sixth + offset) % 6
        turned[:, channel] = value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return turned


def _inside(places: Tensor, size: int) -> Tensor:
    """(N, 1, size, size) bool: the pixels that belong to the picture."""
    first, extent = places.unsqueeze(2).unbind(1)
    line = torch.arange(size, device=places.device)
    line = (line >= first) & (line < first + extent)
    return line[:, None, :, None] & line[:, None, None, :]
