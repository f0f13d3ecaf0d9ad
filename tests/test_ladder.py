"""Ladders from records: what shares a table, what a step spans, and what is left out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.ladder import Ladder, read
from tests import fake_records


def ladder(results: Path, *rungs: str) -> Ladder:
    fake_records.make(results, seeds=1, rungs=rungs)
    (found,) = read(results)
    return found


def test_a_copy_of_a_run_is_no_other_seed(tmp_path: Path) -> None:
    fake_records.make(tmp_path, seeds=2, rungs=("00",))
    here = tmp_path / "mini/00-mmseg-baseline"
    shutil.copytree(here / "seed-0", here / "seed-2")
    (found,) = read(tmp_path)
    assert [run.record["seed"] for run in found.rungs[0].runs] == [0, 1]
    assert found.left_out == (
        (
            "mini/00-mmseg-baseline/seed-2",
            "a copy of mini/00-mmseg-baseline/seed-0: the same train_s to the last digit",
        ),
    )


def test_a_rung_is_called_by_number_and_title_or_by_its_name_alone(tmp_path: Path) -> None:
    [rung] = ladder(tmp_path, "00").rungs
    assert rung.label == f"00 {rung.recipe.title}"
    own = replace(rung, recipe=replace(rung.recipe, name="half-momentum", title="half momentum"))
    assert own.label == "half-momentum"


def test_a_seed_counts_once(tmp_path: Path) -> None:
    fake_records.make(tmp_path, seeds=2, rungs=("00",))
    here = tmp_path / "mini/00-mmseg-baseline"
    shutil.copytree(here / "seed-0", here / "seed-7")
    run = here / "seed-7/run.json"
    for name in ("train_s", "wall_s", "images_per_s"):
        run.write_text(_scaled(run.read_text(), name))
    (found,) = read(tmp_path)
    assert found.left_out == (
        ("mini/00-mmseg-baseline/seed-7", "seed 0 counts already, from mini/00-mmseg-baseline/seed-0"),
    )


def _scaled(text: str, name: str) -> str:
    """The text with a number moved by less than a fault: a second run that took almost as long."""
    line = next(line for line in text.splitlines() if f'"{name}"' in line)
    value = float(line.split(":")[1].strip(" ,"))
    return text.replace(line, f' "{name}": {value * (1 + 1e-9)!r},')


@pytest.mark.parametrize(
    ("rungs", "titles"),
    [
        (("00",), ["00 mmseg baseline"]),
        (("00", "01", "02"), ["00 mmseg baseline", "01 new weights", "02 decoupled weight decay"]),
        (("00", "01", "07"), ["00 mmseg baseline", "01 new weights", "02 to 07 together, against 01"]),
        (("00", "02"), ["00 mmseg baseline", "01 to 02 together, against 00"]),
        (("03", "07"), ["03 cosine", "04 to 07 increase the batch size"]),
        (("03", "04", "06", "07"), ["03 cosine", "04 to 07 increase the batch size"]),
        (("04", "05"), ["04 batch 32", "05 batch 64"]),
    ],
)
def test_a_step_says_what_it_spans(tmp_path: Path, rungs: tuple[str, ...], titles: list[str]) -> None:
    found = ladder(tmp_path, *rungs)
    steps = [found.step(end) for end in found.steps()]
    assert [step.title for step in steps] == titles
    assert [step.whole for step in steps] == ["together" not in title for title in titles]
