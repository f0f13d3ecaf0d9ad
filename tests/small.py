"""A workload small enough for tests: eight scenes, a thread of a network, seconds for a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from bench import recipe, record, scenes, workload
from bench.matrix import Job

WORKLOAD = """
extends = "mini"
title = "small"
[data]
train_images = 32
val_images = 5
[model]
widths = [4, 4, 6, 8, 8]
head_width = 8
low_width = 4
[train]
crop = 24
epochs = 6
replicas = 2
[evaluation]
evaluations = 3
batch_size = 3
target_miou = 2.0
samples = 2
"""
RECIPE = """
extends = "{parent}"
title = "small {parent}"
[model]
weights = "none"
[optim]
batch_size = {batch_size}
{more}
"""


def data(folder: Path) -> Path:
    """A drawn data set of the workload's size, below `folder`."""
    return scenes.ensure(folder, 32, 5, 1)


def pair(folder: Path) -> Path:
    """The smallest data set that is one: a black pair a split."""
    for kind, mode in (("images", "RGB"), ("annotations", "L")):
        for split in ("training", "validation"):
            (folder / kind / split).mkdir(parents=True)
            Image.new(mode, (4, 4)).save(folder / kind / split / "a.png")
    return folder


def job(folder: Path, pictures: Path, parent: str = "00-mmseg-baseline", **changes: Any) -> Job:
    """A job for the small workload; changes: `seed`, `batch_size`, `optim`, `workload` (TOML)."""
    from bench.device import facts  # has torch: the tests of the other half use this module, too

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.toml").write_text(WORKLOAD)
    text = RECIPE.format(
        parent=parent, batch_size=changes.get("batch_size", 8), more=changes.get("optim", "")
    )
    (folder / "small-recipe.toml").write_text(text)
    which = folder / "small.toml"
    if "workload" in changes:
        which = folder / "smaller.toml"
        which.write_text('extends = "./small.toml"\ntitle = "smaller"\n' + changes["workload"])
    loaded, how = workload.load(which), recipe.load(folder / "small-recipe.toml")
    seed = changes.get("seed", 0)
    return Job(
        recipe=how,
        workload=loaded,
        seed=seed,
        folder=record.run_folder(folder / "results", loaded.name, how.name, seed),
        data=pictures,
        device="cpu",
        command="segbench run",
        deterministic=False,
        facts=facts("cpu"),
    )
