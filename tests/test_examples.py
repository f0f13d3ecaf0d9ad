"""EXTENDING.md works: its files are written and its commands typed, from top to bottom, in a clone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import assets, record, scenes, workload

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "EXTENDING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SLOWER = 3  # what a check may say: no test asserts a time


@dataclass
class Place:
    """The folder in which a reader follows the page, and what the commands said there."""

    folder: Path
    said: str = ""

    def follow(self, section: str) -> str:
        """Do what a section says; the output of its commands."""
        self.said = ""
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
        for language, text in fenced:
            if language == "":
                for line in text.splitlines():
                    self.type(line)
            elif language != "text":  # a picture of folders
                name = text.splitlines()[0].removeprefix("# ")
                (self.folder / name).write_text(text, encoding="utf-8")
                if language == "python":
                    self.type(f"python {name}")
        return self.said

    def type(self, line: str) -> None:
        """One line of shell, through the real command line of the clone."""
        command, *words = shlex.split(line)
        programs = {"segbench": [sys.executable, "-m", "bench"], "python": [sys.executable], "git": ["git"]}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "COV"))}
        here = {"PYTHONPATH": str(self.folder), "SEGBENCH_CACHE": str(self.folder / "cache")}
        done = subprocess.run(
            [*programs[command], *words], cwd=self.folder, env=kept | here, capture_output=True, text=True
        )
        allowed = (0, SLOWER) if words[0] == "check" else (0,)
        assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
        self.said += done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A clone, with masks that count classes from 0, as most do: road, car, tree, and 255 for the rest."""
    folder = tmp_path_factory.mktemp("clone")
    for name, source in (("bench", assets.PACKAGE), ("recipes", assets.folder("recipes"))):
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    values = np.full(len(scenes.CLASSES) + 1, 255, np.uint8)
    for value, name in enumerate(("road", "car", "tree")):
        values[scenes.CLASSES.index(name) + 1] = value
    for split, theirs, count in (("training", "train", 8), ("validation", "val", 4)):
        for kind in ("pictures", "masks"):
            (folder / kind / theirs).mkdir(parents=True)
        for index in range(count):
            picture, labels = scenes.draw(1, split, index)
            Image.fromarray(picture).save(folder / "pictures" / theirs / f"{index}.png")
            Image.fromarray(values[labels]).save(folder / "masks" / theirs / f"{index}.png")
    return Place(folder)


def test_the_page_from_top_to_bottom(place: Place) -> None:
    """One test, since each section stands on those before it."""
    first, rung, data, backbone, optimiser, ci, pandas = SECTIONS
    assert place.follow(first) == ""
    quick = workload.load(str(place.folder / "quick.toml")).values
    images = quick["train"]["epochs"] * quick["data"]["train_images"]
    assert images // 256 >= quick["evaluation"]["evaluations"]  # so that each rung trains on it, 08 too

    said = place.follow(rung)
    assert "optim.weight_decay" in said
    assert "reports/quick/report.md" in said
    page = (place.folder / "reports" / "quick" / "report.md").read_text(encoding="utf-8")
    assert re.search(r"^\| less-decay \| 3 \| 07 \|", page, re.MULTILINE)

    said = place.follow(data)
    assert "Next: segbench report" in said
    run = record.read(record.run_folder(place.folder / "results/local", "streets", "00-mmseg-baseline", 0))
    assert (run["train_images"], run["val_images"]) == (8, 4)
    assert run["per_class_iou"].keys() == {"road", "car", "tree"}

    place.follow(backbone)
    run = record.read(record.run_folder(place.folder / "results/local", "mobile", "scratch", 0))
    assert (run["status"], run["parameters"] > 2_900_000) == ("finished", True)

    place.follow(optimiser)
    folder = record.run_folder(place.folder / "results/local", "quick", "adamw", 0)
    assert record.read(folder)["status"] == "finished"
    assert 'optimizer = "adamw"' in (folder / "recipe.toml").read_text(encoding="utf-8")

    assert "07-no-sync-bn" in place.follow(ci)

    said = place.follow(pandas)
    assert "images_per_s" in said
    assert said.index("less-decay") > 0
    assert "evals" not in said


def test_every_section_the_readers_were_promised_is_there() -> None:
    assert list(SECTIONS)[1:] == [
        "Add a rung",
        "Add a data set",
        "Add a backbone",
        "Add an optimiser",
        "Use the check in CI",
        "Read the results in pandas",
    ]
