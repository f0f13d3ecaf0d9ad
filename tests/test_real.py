"""Real pictures: three pairs of ADE20K and all of CamVid, where they lie beside the project."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import evaluate, record, verification, workload
from bench.dataset import IGNORE
from bench.train import train
from tests import small

DATA = Path(__file__).parents[2] / "shared" / "data"


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"there is no {DATA / name}: this test needs real pictures")
    return DATA / name


@pytest.fixture
def ade20k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three pairs, to train on and to validate on."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            shutil.copytree(real("ade20k-sample") / kind, tmp_path / "data" / kind / split)
    return tmp_path / "data"


def test_camvid_is_what_its_workload_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    told: list[tuple[int, int]] = []
    verification.verify(
        real("camvid"), workload.load("camvid"), lambda done, total: told.append((done, total))
    )
    assert told[-1] == (468, 468)


def test_ade20ks_own_pairs_have_its_layout_and_labels(ade20k: Path) -> None:
    ade = workload.load("ade20k")
    few = {**ade.values["data"], "train_images": 3, "val_images": 3}
    verification.verify(ade20k, replace(ade, values={**ade.values, "data": few}))


WORKLOAD = """
[data]
source = "folder"
classes = [{classes}]
train_images = 3
val_images = 3
redistributable = false
[model]
backbone = "resnet18"
widths = []
blocks = []
rates = [12, 24, 36]
[train]
crop = 64
epochs = 8
[evaluation]
{protocol}
"""


@pytest.mark.parametrize("protocol", ["squash", "native"])
def test_a_real_backbone_trains_on_real_pairs_under_both_protocols(
    tmp_path: Path, ade20k: Path, protocol: str
) -> None:
    names = ", ".join(f'"{name}"' for name in workload.load("ade20k").values["data"]["classes"])
    said = 'protocol = "native"' if protocol == "native" else "batch_size = 2"
    job = small.job(tmp_path, ade20k, batch_size=4, workload=WORKLOAD.format(classes=names, protocol=said))
    train(job, lambda _: None)
    run = record.read(job.folder)
    assert (run["status"], run["protocol"], run["steps_done"]) == ("finished", protocol, 6)
    assert run["parameters"] > 11_000_000
    counted = np.genfromtxt(job.folder / "confusion.csv", delimiter=",", skip_header=1)[:, 1:].sum()
    labels = [Image.open(path) for path in sorted((ade20k / "annotations/validation").glob("*.png"))]
    if protocol == "squash":
        labels = [label.resize((64, 64), Image.Resampling.NEAREST) for label in labels]
    assert counted == sum(int((np.asarray(label) > 0).sum()) for label in labels)


def test_the_kits_own_predictions_score_as_its_own_script_scores_them() -> None:
    """The script's sums, on pixels: what is labelled 0 counts nowhere, absent classes as 0 in the mean."""
    folder = real("ade20k-sample")
    confusion = torch.zeros(150 * 150, dtype=torch.int64)
    hit, labelled, predicted, right, valid = np.zeros(150), np.zeros(150), np.zeros(150), 0, 0
    for path in sorted((folder / "annotations").glob("*.png")):
        label = np.asarray(Image.open(path)).astype(int)
        prediction = np.asarray(Image.open(folder / "predictions" / path.name)).astype(int)
        for number in range(150):
            hit[number] += ((label == number + 1) & (prediction == number + 1)).sum()
            labelled[number] += (label == number + 1).sum()
            predicted[number] += ((label > 0) & (prediction == number + 1)).sum()
        right, valid = right + ((label > 0) & (label == prediction)).sum(), valid + (label > 0).sum()
        kept = torch.from_numpy((label - 1) * 150 + prediction - 1)[torch.from_numpy(label > 0)]
        confusion += torch.bincount(kept, minlength=150 * 150)
    found = evaluate.score(confusion.view(150, 150))
    iou = hit / (labelled + predicted - hit + np.finfo(float).eps)
    assert found["miou_official"] == pytest.approx(100 * iou.mean(), rel=1e-9)
    assert found["pixel_accuracy"] == pytest.approx(100 * right / valid)
    assert found["miou"] > found["miou_official"]
    assert IGNORE not in set(np.unique(prediction))
