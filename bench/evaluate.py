"""Evaluation: every validation image exactly once, counted in integers.

Two protocols that are never mixed. `squash` (the blog's): picture (bilinear) and label (nearest) both resized
to the crop size, ratio not kept. `native` (mmsegmentation's): short side to the crop size, ratio kept; logits
resized to the original size, the label never. Single scale, no flip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.dataset import IGNORE, Dataset, as_picture
from bench.model import DeepLab, resize
from bench.transform import normalise

Scored = Iterable[tuple[Tensor, Tensor]]  # pictures (N, 3, h, w) and labels (N, H, W), uint8


class Validation:
    """The validation set under a protocol: batches of pictures and the labels they are scored by.

    Under `squash` a data set that is kept in memory is resized once. Of several devices each has every so
    many batches, `rank` the first of its own: together each picture once.
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
        self.batch_size = batch_size if protocol == "squash" else 1
        self.kept = list(self._batches()) if protocol == "squash" and dataset.kept is not None else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, 3, h, w) uint8 and labels (N, H, W) uint8."""
        return iter(self.kept) if self.kept is not None else self._batches()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self.dataset), self.batch_size)[self.rank :: self.devices]:
            indices = range(first, min(first + self.batch_size, len(self.dataset)))
            images, labels = zip(*(self.sample(index) for index in indices), strict=True)
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels))

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
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    for images, labels in validation:
        labels = labels.to(device)
        prediction = predict(model, images.to(device), labels.shape[1:])
        valid = labels != IGNORE
        confusion += torch.bincount(labels[valid].long() * classes + prediction[valid], minlength=classes**2)
    model.train()
    return confusion.view(classes, classes).cpu()


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
