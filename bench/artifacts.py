"""What a finished run leaves beside its numbers: the confusion matrix and a few predictions to look at."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench import record
from bench.evaluate import Validation
from bench.learner import Learner


def write_confusion(path: Path, confusion: Tensor, classes: Sequence[str]) -> None:
    """confusion.csv: a row a label, a column a prediction, pixels. BenchError: it cannot be written."""
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["label", *classes])
            rows.writerows([name, *counts] for name, counts in zip(classes, confusion.tolist(), strict=True))
    except OSError as error:
        raise record.unwritable(path, error) from error


def write_samples(folder: Path, learner: Learner, validation: Validation, count: int) -> None:
    """`<name>-{image,label,prediction}.png` of `count` pictures spread over the validation set.

    Labels and predictions are 8-bit gray: class i is i + 1, 0 is other. BenchError: they cannot be written.
    """
    dataset = validation.dataset
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    try:
        folder.mkdir(exist_ok=True)
        for index in chosen.tolist():
            picture, label = validation.sample(index)
            prediction = learner.predict(torch.from_numpy(picture).permute(2, 0, 1)[None], label.shape)
            numbers = prediction[0].numpy().astype(np.uint8)
            one = np.uint8(1)  # 255, which marks other in memory, becomes 0 again
            for what, pixels in (("image", picture), ("label", label + one), ("prediction", numbers + one)):
                Image.fromarray(pixels).save(folder / f"{dataset.name(index)}-{what}.png")
    except OSError as error:
        raise record.unwritable(folder, error) from error
