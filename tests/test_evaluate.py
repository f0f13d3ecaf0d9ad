"""Evaluation: every validation pixel counted once, in integers, and scored as the field scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bench import model, workload
from bench.dataset import IGNORE, Dataset
from bench.evaluate import Validation, evaluate, native_size, predict, score
from bench.transform import MEAN, STD

CLASSES, CROP = 5, 16
SIZES = [(20, 16), (16, 16), (40, 30), (17, 33), (9, 12), (31, 18), (16, 50)]  # width, height
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Reader(nn.Module):
    """A model that reads the class off the red channel: 50 levels a class. Its logits are sharp."""

    def forward(self, images: Tensor) -> Tensor:
        red = ((images[:, 0] * STD[0] + MEAN[0]) * 255).round()
        number = (red / 50).floor().clamp(0, CLASSES - 1).long()
        return F.one_hot(number, CLASSES).movedim(-1, 1).float()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pairs of noise in different sizes; the third label holds nothing but other."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (root / kind / "validation").mkdir(parents=True)
    for index, (width, height) in enumerate(SIZES):
        pixels = rng.integers(0, 250, (height, width, 3), np.uint8)
        label = rng.integers(0, CLASSES + 1, (height, width), np.uint8) * (index != 2)
        Image.fromarray(pixels).save(root / f"images/validation/{index}.png")
        Image.fromarray(label).save(root / f"annotations/validation/{index}.png")
    return root


def validation(
    root: Path, protocol: str = "squash", batch_size: int = 3, in_memory: bool = False
) -> Validation:
    dataset = Dataset(root, "validation", list("abcde"), in_memory)
    return Validation(dataset, protocol, CROP, batch_size)


def counted(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The confusion matrix, one pixel at a time."""
    counts = np.zeros((CLASSES, CLASSES), int)
    for label, prediction in zip(labels.flat, predictions.flat, strict=True):
        if label != IGNORE:
            counts[label, prediction] += 1
    return counts


def by_hand(root: Path, protocol: str) -> np.ndarray:
    """The same evaluation with PIL and numpy, a picture at a time."""
    total = np.zeros((CLASSES, CLASSES), int)
    for index, (width, height) in enumerate(SIZES):
        image = Image.open(root / f"images/validation/{index}.png")
        label = Image.open(root / f"annotations/validation/{index}.png")
        if protocol == "squash":
            image, label = image.resize((CROP, CROP), 2), label.resize((CROP, CROP), 0)
        else:
            image = image.resize(native_size(width, height, CROP), 2)
        numbers = np.minimum(np.array(image)[..., 0] // 50, CLASSES - 1)
        logits = F.one_hot(torch.from_numpy(numbers.astype(int)), CLASSES).movedim(-1, 0)[None].double()
        logits = F.interpolate(logits, (label.height, label.width), mode="bilinear", align_corners=False)
        total += counted(np.array(label) - np.uint8(1), logits.argmax(1)[0].numpy())
    return total


# What is counted


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_native_pictures_of_one_size_go_together_within_the_pixels_of_a_batch(
    tmp_path: Path, batch_size: int, in_memory: bool
) -> None:
    sizes = [(20, 16), (16, 20), (20, 16), (70, 80), (20, 16), (70, 80), (16, 20), (20, 16)]
    for kind, mode in (("images", "RGB"), ("annotations", "L")):
        (tmp_path / kind / "validation").mkdir(parents=True)
        for index, size in enumerate(sizes):
            Image.new(mode, size, (index,) * 3 if mode == "RGB" else 1 + index % CLASSES).save(
                tmp_path / kind / f"validation/{index}.png"
            )
    source = validation(tmp_path, "native", batch_size, in_memory)
    for ranks in (1, 3):
        seen = []
        for rank in range(ranks):
            source.rank, source.devices = rank, ranks
            for images, labels in source:
                assert len(images) == 1 or labels.numel() <= batch_size * CROP**2
                seen += images[:, 0, 0, 0].tolist()
        assert sorted(seen) == list(range(len(sizes)))
    source.rank, source.devices = 0, 1
    assert len(list(source)) == {1: 8, 3: 5, 40: 4}[batch_size]


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_image_counts_once_at_any_batch_size(root: Path, batch_size: int, in_memory: bool) -> None:
    source = validation(root, "squash", batch_size, in_memory)
    sizes = [len(images) for images, _ in source]
    assert sum(sizes) == len(SIZES)
    assert set(sizes[:-1]) <= {batch_size}
    expected = by_hand(root, "squash")
    for _ in range(2):  # and again at the next evaluation
        assert np.array_equal(evaluate(Reader(), source, CPU, CLASSES).numpy(), expected)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (683, 512, (683, 512)),
        (512, 683, (512, 683)),
        (256, 256, (512, 512)),
        (1000, 300, (1707, 512)),
        (2000, 500, (2048, 512)),
        (3000, 500, (2048, 341)),  # so wide that the long side binds
        (300, 3000, (205, 2048)),
    ],
)
def test_native_brings_the_short_side_to_the_crop_and_the_long_one_to_four_at_most(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    assert native_size(width, height, 512) == expected


def test_native_scores_at_the_size_of_the_labels(root: Path) -> None:
    found = evaluate(Reader(), validation(root, "native"), CPU, CLASSES).numpy()
    assert found.sum() == by_hand(root, "native").sum()
    assert np.abs(found - by_hand(root, "native")).sum() <= 4  # ties between sharp logits


def test_the_protocols_show_the_model_what_they_say(root: Path) -> None:
    squashed = [validation(root, "squash").sample(index) for index in range(len(SIZES))]
    native = [validation(root, "native").sample(index) for index in range(len(SIZES))]
    assert {(image.shape, label.shape) for image, label in squashed} == {((CROP, CROP, 3), (CROP, CROP))}
    for (image, label), (width, height) in zip(native, SIZES, strict=True):
        assert min(image.shape[:2]) == CROP
        assert image.shape[1] / image.shape[0] == pytest.approx(width / height, rel=0.04)
        assert label.shape == (height, width)
    for _, label in (*squashed, *native):
        assert set(np.unique(label)) <= {*range(CLASSES), IGNORE}


@pytest.mark.parametrize("protocol", ["squash", "native"])
def test_batches_have_the_types_and_layout_they_say(root: Path, protocol: str) -> None:
    for images, labels in validation(root, protocol):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.uint8)
        assert (images.shape[1], images.ndim, labels.ndim) == (3, 4, 3)
        assert len(images) == len(labels)


def test_a_real_model_comes_back_in_training_mode_with_its_statistics(root: Path) -> None:
    torch.manual_seed(0)
    net = model.build(workload.load("mini").values["model"], CLASSES).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = evaluate(net, validation(root), CPU, CLASSES)
    assert all(part.training for part in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(first, evaluate(net, validation(root, batch_size=2), CPU, CLASSES))
    net(torch.randn(2, 3, 32, 32)).sum().backward()  # and can go on training


def test_more_pixels_than_a_float32_can_count_are_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2**24 + 1
    monkeypatch.setattr(torch, "ones_like", lambda places: torch.full(places.shape, most))
    confusion = evaluate(Reader(), validation(root), CPU, CLASSES)
    assert confusion.dtype == torch.int64
    assert np.array_equal(confusion.numpy(), most * by_hand(root, "squash"))


def test_a_validation_set_of_ignored_pixels_counts_nothing() -> None:
    ignored = torch.full((2, 8, 8), IGNORE, dtype=torch.uint8)
    batches = [(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ignored)]
    assert evaluate(Reader(), batches, CPU, CLASSES).sum() == 0


def test_predictions_have_the_size_asked_for() -> None:
    images = torch.randint(0, 256, (2, 3, 12, 10), dtype=torch.uint8)
    expected = (images[:, 0] // 50).clamp(max=CLASSES - 1).long()
    assert torch.equal(predict(Reader(), images, (12, 10)), expected)
    assert predict(Reader(), images, (30, 7)).shape == (2, 30, 7)


# How it is scored


def plain_scores(counts: np.ndarray) -> dict[str, Any]:
    """Ten lines of numpy."""
    hit, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, recall = hit / (labelled + predicted - hit), hit / labelled
    return {
        "miou_official": 100 * np.nan_to_num(iou).mean(),
        "miou": 100 * np.nan_to_num(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0,
        "pixel_accuracy": 100 * hit.sum() / max(counts.sum(), 1),
        "mean_accuracy": 100 * np.nanmean(recall) if np.isfinite(recall).any() else 0.0,
        "iou": [None if np.isnan(value) else 100 * value for value in iou],
    }


def matrix(*rows: list[int]) -> np.ndarray:
    return np.array(rows)


CASES: dict[str, Callable[[], np.ndarray]] = {
    "random": lambda: np.random.default_rng(1).integers(0, 1000, (12, 12)),
    "sparse": lambda: np.random.default_rng(2).integers(0, 2, (12, 12)) * np.eye(12, dtype=int),
    "a class absent from both": lambda: matrix([5, 1, 0], [2, 7, 0], [0, 0, 0]),
    "a class only predicted": lambda: matrix([5, 1, 2], [2, 7, 3], [0, 0, 0]),
    "a class never predicted": lambda: matrix([5, 1, 0], [2, 7, 0], [3, 3, 0]),
    "all right": lambda: np.diag([3, 1, 9]),
    "all wrong": lambda: matrix([0, 4], [5, 0]),
    "one class": lambda: matrix([8]),
    "always the same answer": lambda: matrix([9, 0, 0], [4, 0, 0], [1, 0, 0]),
    "nothing at all": lambda: np.zeros((3, 3), int),
    "huge": lambda: matrix([2**53 - 1, 1], [3, 2**50]),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_ten_lines_of_numpy(case: str) -> None:
    counts = CASES[case]()
    found, expected = score(torch.from_numpy(counts)), plain_scores(counts)
    for name in ("miou", "miou_official", "pixel_accuracy", "mean_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12), name
        assert 0 <= found[name] <= 100
    for value, wanted in zip(found["iou"], expected["iou"], strict=True):
        assert value is wanted is None or value == pytest.approx(wanted, rel=1e-12)


def test_scores_by_hand() -> None:
    found = score(torch.tensor([[6, 2, 0, 0], [1, 3, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert found["iou"] == [pytest.approx(100 * 6 / 9), pytest.approx(100 * 3 / 10), None, 0.0]
    assert found["miou"] == pytest.approx(100 * (6 / 9 + 3 / 10 + 0) / 3)
    assert found["miou_official"] == pytest.approx(100 * (6 / 9 + 3 / 10 + 0 + 0) / 4)
    assert found["pixel_accuracy"] == pytest.approx(100 * 9 / 16)
    assert found["mean_accuracy"] == pytest.approx(100 * (6 / 8 + 3 / 8) / 2)


def test_scores_are_plain_numbers_that_json_and_checkpoints_take() -> None:
    found = score(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    assert {type(value) for name, value in found.items() if name != "iou"} == {float}
    assert [type(value) for value in found["iou"]] == [float, float, type(None)]
