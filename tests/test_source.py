"""Sources: a run is given pictures or noise as its workload says, in the same shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import dataset, evaluate, noise, source
from bench.group import Group
from tests import small

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.data(tmp_path_factory.mktemp("pictures"))


def found(folder: Path, pictures: Path | None, lines: str = "[train]\nepochs = 5") -> source.Source:
    job = small.job(folder, folder, workload=lines)
    return source.find(pictures, job.recipe, job.workload, job.seed, CPU, Group())


def test_pictures_come_from_the_folder(tmp_path: Path, pictures: Path) -> None:
    here = found(tmp_path, pictures)
    assert (here.train_images, len(here.validation)) == (32, 5)
    assert isinstance(here.validation, evaluate.Validation)
    assert here.fingerprint == dataset.fingerprint(pictures)


def test_pictures_that_the_workload_leaves_out_are_in_neither_split(tmp_path: Path, pictures: Path) -> None:
    lines = "[data]\nsource = 'folder'\ntrain_images = 0\nval_images = 0\nleave_out = ['scene_00000002']"
    here = found(tmp_path, pictures, lines)
    assert (here.train_images, len(here.validation)) == (31, 4)


def test_noise_comes_from_nowhere(tmp_path: Path) -> None:
    here = found(tmp_path, None, "[data]\nsource = 'noise'")
    assert (here.train_images, len(here.validation), here.fingerprint) == (32, 5, None)
    assert isinstance(here.validation, noise.Validation)


@pytest.mark.parametrize("kind", ["scenes", "noise"])
def test_batches_begin_and_end_where_they_are_asked_to(tmp_path: Path, pictures: Path, kind: str) -> None:
    lines = "[data]\nsource = 'noise'" if kind == "noise" else "[train]\nepochs = 5"
    here = found(tmp_path, None if kind == "noise" else pictures, lines)
    straight, later = list(here.batches(0, 4)), list(here.batches(2, 4))
    assert [len(batch.images) for batch in straight] == [8] * 4
    assert all(torch.equal(a.images, b.images) for a, b in zip(straight[2:], later, strict=True))
