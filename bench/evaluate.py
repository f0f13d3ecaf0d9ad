"""Evaluation: every validation image exactly once, counted in integers.

Two protocols that are never mixed. `squash` (the blog's): picture (bilinear) and label (nearest) both resized
to the crop size, ratio not kept. `native` (mmsegmentation's): short side to the crop size, ratio kept; logits
resized to the original size, the label never. Single scale, no flip.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.dataset import IGNORE, Dataset, as_picture
from bench.device import send
from bench.model import DeepLab, resize
from bench.transform import normalise

Scored = Iterable[tuple[Tensor, Tensor]]  # pictures (N, 3, h, w) and labels (N, H, W), uint8


class Validation:
    """The validation set under a protocol: batches of pictures and the labels they are scored by.

    Under `squash` a data set that is kept in memory is resized once; under `native` pictures of one size go
    together, as many as are no larger than a batch of crops. Of several devices each has every so many
    batches, `rank` the first of its own: together each picture once.
    """

    def __init__(
        self,
        dataset: Dataset,
        protocol: str,
        crop: int,
        batch_size: int,
        rank: int = 0,
        devices: int = 1,
    ) -> None:
        self.rank, self.devices = rank, devices
        self.dataset, self.protocol, self.crop = dataset, protocol, crop
        self.batch_size = batch_size
        self.kept = list(self._batches()) if protocol == "squash" and dataset.kept is not None else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, 3, h, w) uint8 and labels (N, H, W) uint8."""
        return iter(self.kept) if self.kept is not None else self._batches()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self._together[self.rank :: self.devices]:
            images, labels = zip(*(self.sample(index) for index in indices), strict=True)
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels))

    @functools.cached_property
    def _together(self) -> list[tuple[int, ...]]:
        """The numbers of the pictures of each batch."""
        every, most = range(len(self.dataset)), self.batch_size * self.crop**2
        if self.protocol == "squash":
            return [tuple(every[first : first + self.batch_size]) for first in every[:: self.batch_size]]
        sizes = [self.dataset.size(index) for index in every]
        batches = []
        for size, alike in itertools.groupby(sorted(every, key=sizes.__getitem__), sizes.__getitem__):
            count = max(1, most // math.prod(size))
            while some := tuple(itertools.islice(alike, count)):
                batches.append(some)
        return batches

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One picture (h, w, 3) as the model sees it and its label (H, W) as it is scored."""
        pixels, numbers = self.dataset.pair(index)
        image, label = as_picture(pixels, "RGBX"), as_picture(numbers, "L")
        if self.protocol == "squash":
            size = (self.crop, self.crop)
            label = label.resize(size, Image.Resampling.NEAREST)
        else:
            size = native_size(image.width, image.height, self.crop)
        return np.array(image.resize(size, Image.Resampling.BILINEAR).convert("RGB")), np.array(label)


def native_size(width: int, height: int, crop: int) -> tuple[int, int]:
    """Width and height under `native`: the short side `crop`, the long one at most four times that.

    mmsegmentation's test scale of (2048, 512) with its ratio kept, for any crop.
    """
    ratio = min(crop / min(width, height), 4 * crop / max(width, height))
    return int(width * ratio + 0.5), int(height * ratio + 0.5)


@torch.inference_mode()
def evaluate(model: DeepLab, validation: Scored, device: torch.device, classes: int) -> Tensor:
    """The confusion matrix (classes, classes) int64 on the CPU: rows are labels, columns predictions."""
    model.eval()
    rows = IGNORE + 1  # ignored pixels are counted, too, then dropped: leaving them out takes a question
    confusion = torch.zeros(rows * classes, dtype=torch.int64, device=device)
    with _tuned(_is_of_one_shape(validation)):
        for images, labels in validation:
            labels = send(labels, device)
            prediction = predict(model, send(images, device), labels.shape[1:])
            places = labels.long().mul_(classes).add_(prediction).view(-1)
            confusion.scatter_add_(0, places, torch.ones_like(places))
    model.train()
    return confusion.view(rows, classes)[:classes].cpu()


@contextlib.contextmanager
def _tuned(worth_it: bool) -> Iterator[None]:
    """cuDNN tries out its ways for each new shape, which pays where there are few of them."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before and worth_it
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _is_of_one_shape(validation: Scored) -> bool:
    return getattr(validation, "protocol", "squash") == "squash"


def predict(model: DeepLab, images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Class numbers (N, *size) int64 for uint8 images (N, 3, h, w)."""
    logits = model(normalise(images))
    return (logits if logits.shape[2:] == size else resize(logits, size)).argmax(1)


def score(confusion: Tensor) -> dict[str, Any]:
    """`miou`, `miou_official`, `pixel_accuracy`, `mean_accuracy` in points and `iou`, a list with None for
    absent classes.

    IoU is intersection over union summed over the whole set; its mean leaves out classes that occur neither
    in labels nor in predictions (mmsegmentation's and Composer's way), or counts them as 0 (miou_official,
    the way of the scene-parsing challenge's own script). mean_accuracy averages over the classes of the
    labels. All NaN-free: no valid pixel at all scores 0.
    """
    counts = confusion.double()
    hit, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = labelled + predicted - hit
    iou = [100 * (h / u) if u else None for h, u in zip(hit.tolist(), union.tolist(), strict=True)]
    recall = [100 * h / n for h, n in zip(hit.tolist(), labelled.tolist(), strict=True) if n]
    return {
        "miou": _mean([value for value in iou if value is not None]),
        "miou_official": _mean([value or 0.0 for value in iou]),
        "pixel_accuracy": 100 * float(hit.sum()) / max(float(counts.sum()), 1.0),
        "mean_accuracy": _mean(recall),
        "iou": iou,
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
