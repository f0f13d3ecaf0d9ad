"""The training transform: resize, crop, pad, flip, photometric, normalise.

Two halves. Scale and window are decided and done a sample at a time on the CPU, on 8-bit pictures, and only
what the crop shows is resized, straight into the batch. Mirroring, colour and normalisation are done a batch
at a time on the device. All random numbers of a sample are one row of uniforms from its own stream, so that
they hang on (seed, epoch, index) alone. Values follow the blog's baseline: the photometric steps are those of
torchvision's ColorJitter, each with probability one half; contrast comes either before saturation and hue or
after them. `plainly` in tests/test_transform.py is the transform as one would write it down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cykooz_resizer.rust_lib import PilImageWrapper, RustResizeOptions, RustResizer
from PIL import Image
from torch import Tensor

from bench.dataset import IGNORE, as_picture
from bench.device import send

SCALE = (0.5, 2.0)
MAX_SHARE, TRIES = 0.75, 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32 / 255, 0.5, 0.5, 18 / 255
STRENGTHS = np.array([[BRIGHTNESS], [CONTRAST], [SATURATION], [HUE]], np.float32)
FILL = (123, 116, 103)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY = (0.2989, 0.587, 0.114)

CHUNK = 2**18  # pixels that are coloured together on a CPU, so that they stay in its cache
LARGE = 2**14  # pixels of a plane for which it pays to take thought
SPARSE = 16  # of how many lines and columns one is looked at to see which classes there are
HUGE = 1e30  # times the least difference between two values in 0..1 that are not tiny: far above 1

_GEOMETRY = 2 + 2 * TRIES  # scale, flip, then y and x of every try
DRAWS = _GEOMETRY + 9  # then a coin and a strength for each of four photometric steps, and their order

FOUR = "CMYK"  # the one mode of Pillow that is four bytes a pixel and no more to the resizer
# The resizer's numbers: how it works, and with which filter, which is as wide as what it shrinks.
_NEAREST, _CONVOLUTION, _TRIANGLE = 1, 2, 2
BILINEAR = RustResizeOptions().set_resize_alg(_CONVOLUTION, _TRIANGLE, 0).set_use_alpha(False)
NEAREST = RustResizeOptions().set_resize_alg(_NEAREST, _TRIANGLE, 0).set_use_alpha(False)
RESIZER = RustResizer()  # keeps the memory that it works in

Rows = np.ndarray | slice


@dataclass(frozen=True)
class Crop:
    """A crop window in the picture resized to (side, side)."""

    side: int
    top: int
    left: int

    def box(self, size: tuple[int, int], extent: int) -> tuple[float, float, float, float]:
        """The window, `extent` pixels wide and high, in the coordinates of the picture before resizing."""
        edges = (self.left, self.top, self.left + extent, self.top + extent)
        left, top, right, bottom = (
            edge * length / self.side for edge, length in zip(edges, size * 2, strict=True)
        )
        return left, top, right, bottom  # products first, so that rounding puts no edge outside the picture


def see(pixels: np.ndarray, label: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """A pair as `crop_sample` takes it, of (H, W, 4) and (H, W) as `Dataset.pair` gives them; no copies."""
    return as_picture(pixels, FOUR), as_picture(label, "L")


def crop_sample(
    picture: Image.Image,
    label: Image.Image,
    size: int,
    uniforms: np.ndarray,
    out: np.ndarray,
    out_label: np.ndarray,
) -> tuple[int, int, bool]:
    """Write the crop of a sample into `out` (size, size, 4) and `out_label` (size, size), uint8.

    `picture` and `label` are as `see` gives them. The picture is squashed to a square of `size` times
    U(0.5, 2); a window with less than three quarters of one class is looked for ten times (else the last one
    is taken); what is smaller is centred on FILL. Returns where the picture lies within the crop, its first
    row and column and how many there are, once it has been mirrored, and whether it is to be.
    """
    scale, coin, *corners = uniforms.tolist()  # Python's numbers, which are quicker one at a time
    side = round(size * (SCALE[0] + (SCALE[1] - SCALE[0]) * scale))
    extent, flip = min(side, size), coin < 0.5
    pad, words = (size - extent) // 2, out.view(np.int32)[..., 0]  # red is the lowest byte of a pixel's word
    if extent < size:
        words[:], out_label[:] = FILL[0] | FILL[1] << 8 | FILL[2] << 16, IGNORE
    before = size - extent - pad if flip else pad
    inside = slice(pad, pad + extent), slice(before, before + extent)
    for attempt in range(TRIES if side > size else 1):
        y, x = corners[2 * attempt : 2 * attempt + 2]
        crop = Crop(side, int(y * (side - extent + 1)), int(x * (side - extent + 1)))
        box = crop.box(label.size, extent)
        _resize(label, box, out_label[inside], NEAREST)
        if side > size and is_mixed(out_label):
            break
    _resize(picture, box, out[inside], BILINEAR)
    return pad, extent, flip


def is_mixed(window: np.ndarray) -> bool:
    """Whether every class covers less than MAX_SHARE of the pixels (H, W) that have one.

    To count one class is quick, to count all is not. So those of a large window are counted one by one, first
    what every so many pixels show most: once the others together have less than the share, so has each.
    """
    if window.size >= LARGE:
        left = np.count_nonzero(window != IGNORE)
        most = MAX_SHARE * left
        some = np.bincount(window[::SPARSE, ::SPARSE].ravel(), minlength=IGNORE)[:IGNORE]
        for number in some.argsort()[::-1][: np.count_nonzero(some)].tolist():
            count = np.count_nonzero(window == number)
            left -= count
            if count >= most or left < most:
                return bool(count < most)
    counts = np.bincount(window.ravel(), minlength=IGNORE)[:IGNORE]
    return bool(counts.max() < MAX_SHARE * counts.sum())


def _resize(
    picture: Image.Image, box: tuple[float, float, float, float], out: np.ndarray, how: RustResizeOptions
) -> None:
    """Pillow's filter over `box`, within rounding, by a library that uses vector instructions."""
    left, top, right, bottom = box
    window = how.set_crop_box(left, top, right - left, bottom - top)
    RESIZER.resize_pil(PilImageWrapper(picture), PilImageWrapper(as_picture(out, picture.mode)), window)


def mirror(planes: Tensor, mirrored: Tensor) -> Tensor:
    """(N, H, W), those turned left to right that are `mirrored`, (N,) on the CPU and not 0."""
    if not mirrored.any():
        return planes
    return torch.where(send(mirrored != 0, planes.device)[:, None, None], planes.flip(2), planes)


def color(images: Tensor, uniforms: Tensor, places: Tensor) -> Tensor:
    """What is left to do to pictures: (N, S, S, 4) uint8 -> (N, 3, S, S) float32, on their device.

    `uniforms` (N, 9) are the last draws of each sample and `places` (N, 3) what `crop_sample` returned, both
    on the CPU, where it is decided what to do: the device is never waited for. Each step touches only the
    samples that it changes, and works on planes: channels beside one another would be read four apart.
    """
    x = torch.empty(len(images), 3, *images.shape[1:3], device=images.device)
    each = len(x) if x.is_cuda else max(1, CHUNK // max(1, x[0, 0].numel()))
    parts = (tensor.split(each) for tensor in (x, images, uniforms, places))
    for planes, pixels, draws, where in zip(*parts, strict=True):
        unpack(mirror(pixels.view(torch.int32).squeeze(-1), where[:, 2]), planes)
        _distort(planes, draws, where[:, :2])
        normalise_unit(planes)
    return x


def unpack(words: Tensor, out: Tensor) -> None:
    """Write pixels (N, S, S), each the four bytes of an int32, into `out`, (N, 3, S, S) float32 in 0..1."""
    for channel, plane in enumerate(out.unbind(1)):
        plane.copy_((words >> 8 * channel).bitwise_and_(255))
    out.div_(255)


def _distort(x: Tensor, uniforms: Tensor, places: Tensor) -> None:
    """The photometric steps of some samples, in place."""
    draws, (first, extent) = uniforms.numpy(), places.numpy().T  # quicker than torch for so few numbers
    bright, contrasted, saturated, hued = (draws[:, 0:8:2] < 0.5).T
    late, size = draws[:, 8] < 0.5, x.shape[-1]
    brightness, contrast, saturation, hue = (2 * draws[:, 1:8:2].T - 1) * STRENGTHS

    def sent(values: np.ndarray, rows: Rows) -> Tensor:
        return send(torch.from_numpy(values[rows]).view(-1, 1, 1, 1), x.device)

    def change_contrast(some: Tensor, rows: Rows) -> None:
        inside = send(_inside(first[rows], extent[rows], size), x.device)
        adjust_contrast(some, 1 + sent(contrast, rows), inside)

    if bright.any():  # to take samples out and put them back costs more than this step
        x.mul_(1 + sent(bright * brightness, slice(None))).clamp_(0, 1)
    _change(x, contrasted & ~late, change_contrast)
    _change(x, saturated, lambda some, rows: blend(some, gray(some), 1 + sent(saturation, rows)))
    _change(x, hued, lambda some, rows: shift_hue(some, sent(hue, rows).squeeze(1)))
    _change(x, contrasted & late, change_contrast)
    padded = np.flatnonzero(extent < size)
    if len(padded):
        fill = send(torch.tensor([value / 255 for value in FILL]), x.device).view(3, 1, 1)
    for row in padded:
        _frame(x[row], first[row], extent[row], fill)


def _frame(planes: Tensor, first: int, extent: int, fill: Tensor) -> None:
    """Let (3, S, S) be `fill` outside of `extent` lines and columns from the `first` on, in place."""
    planes[:, :first] = planes[:, first + extent :] = fill
    planes[:, :, :first] = planes[:, :, first + extent :] = fill


def _change(x: Tensor, chosen: np.ndarray, how: Callable[[Tensor, Rows], object]) -> None:
    """Let `how` change the `chosen` samples, a mask, in place; it is given their row numbers."""
    rows = np.flatnonzero(chosen)
    if len(rows) == len(x):
        how(x, slice(None))
    elif len(rows):
        places = send(torch.from_numpy(rows), x.device)
        some = x.index_select(0, places)
        how(some, rows)
        x.index_copy_(0, places, some)


def normalise(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 with ImageNet's mean and deviation taken out."""
    return normalise_unit(images / 255)


def normalise_unit(x: Tensor) -> Tensor:
    """The same for values in 0..1; works in place."""
    for plane, mean, deviation in zip(x.unbind(1), MEAN, STD, strict=True):
        plane.sub_(mean).div_(deviation)
    return x


def gray(x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), the weights of ITU-R 601 as torchvision rounds them."""
    red, green, blue = x.unbind(1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2]).unsqueeze(1)


def blend(x: Tensor, other: Tensor, factor: Tensor) -> None:
    """Make x `factor` of itself and the rest of `other`, in place."""
    x.mul_(factor).add_(other * (1 - factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor, inside: Tensor) -> None:
    """Blend each picture with its mean gray over the lines and columns `inside` (N, S), in place."""
    shown = gray(x).mul_(inside[:, None, None, :]).mul_(inside[:, None, :, None])
    count = inside.sum(1).square().view(-1, 1, 1, 1)
    blend(x, shown.sum((2, 3), keepdim=True) / count, factor)


def shift_hue(x: Tensor, shift: Tensor) -> None:
    """Turn the hue of (N, 3, H, W) in 0..1 by `shift` (N, 1, 1) turns, a sixth at most, in place (HSV).

    Hue and what follows from it are counted in sixths of a turn times chroma, so that nothing is divided, and
    cases are told apart by arithmetic: comparisons and `where` cost ten times as much on a CPU.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = (red - green).add_(chroma, alpha=4)
    hue.lerp_((blue - red).add_(chroma, alpha=2), _is_zero(value - green))
    hue.lerp_(green - blue, _is_zero(value - red))
    hue.addcmul_(chroma, 6 * shift)
    hue.addcmul_(chroma, (hue * -HUGE).clamp_(0, 1), value=6)  # what is below 0 goes once around
    spare = torch.sub(hue, chroma, alpha=3).abs_()
    _take_off(value, chroma, torch.sub(chroma, spare, out=spare).add_(chroma), red)
    for centre, channel in ((2, green), (4, blue)):
        spare = torch.sub(hue, chroma, alpha=centre, out=spare).abs_().sub_(chroma)
        _take_off(value, chroma, spare, channel)


def _take_off(value: Tensor, chroma: Tensor, lack: Tensor, out: Tensor) -> None:
    """A channel: value less what it lacks, which is between 0 and chroma."""
    torch.sub(value, torch.minimum(lack.clamp_min_(0), chroma, out=lack), out=out)


def _is_zero(x: Tensor) -> Tensor:
    """1 where x, which is not negative, is 0, else 0; works in place."""
    return x.mul_(-HUGE).add_(1).clamp_min_(0)


def _inside(first: np.ndarray, extent: np.ndarray, size: int) -> Tensor:
    """(N, size) float32, 1 for the lines, and as well the columns, that belong to the picture."""
    line = np.arange(size) - first[:, None]
    return torch.from_numpy(((line >= 0) & (line < extent[:, None])).astype(np.float32))
