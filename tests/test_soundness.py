"""Records that agree with themselves, and every way in which an edited one does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import recipe, record, soundness, workload
from tests import fake_records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_records.make_run(tmp_path, recipe.ladder()[0], workload.load("mini"), seed=1)


def faults(folder: Path) -> list[str]:
    return soundness.faults(folder, record.read(folder))


def edit(folder: Path, **changes: Any) -> None:
    """Change `run.json` as an editor would; a function gets the old value."""
    path = folder / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, **{k: v(run[k]) if callable(v) else v for k, v in changes.items()}}))


def test_a_record_as_written_is_sound(folder: Path) -> None:
    assert faults(folder) == []


def test_rounding_is_no_fault(folder: Path) -> None:
    edit(folder, wall_s=lambda s: s * (1 + 1e-12), final_miou=lambda points: points * (1 - 1e-12))
    assert faults(folder) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wall_s": 99.0}, "its phases add up to"),
        ({"eval_s": lambda s: s + 0.1}, "its phases add up to"),
        ({"images_per_s": lambda speed: 1.05 * speed}, "its images_per_s is"),
        ({"final_miou": 44.17}, "its final_miou is 44.17, its last evaluation shows"),
        ({"final_pixel_accuracy": 99.0}, "its final_pixel_accuracy is 99, its last evaluation shows"),
        ({"per_class_iou": {"sky": 99.0}}, "its per_class_iou is not that of its last evaluation"),
        ({"best_miou": 44.17}, "its best_miou is 44.17, its best evaluation shows"),
        ({"steps_done": 7}, "7 of 1200 steps are done"),
        ({"steps": 600, "steps_done": 600}, "its last evaluation follows step 1200 of 600"),
        ({"train_s": 0.0}, "its training took none"),
        ({"setup_s": -1.0}, "took less than no time"),
        ({"images_per_s": 0, "steps": 0, "steps_done": 0}, "its training took none"),
        ({"images_per_s": None, "final_miou": None}, "finished without images_per_s, final_miou"),
        ({"recipe_fingerprint": "0123456789ab"}, "its run.json does not fit its recipe.toml"),
        ({"recipe": "mine"}, "its run.json does not fit its recipe.toml"),
        ({"workload_fingerprint": "0123456789ab"}, "its run.json does not fit its workload.toml"),
    ],
)
def test_an_edited_number_is_named(changes: dict[str, Any], words: str, folder: Path) -> None:
    edit(folder, **changes)
    assert any(words in fault for fault in faults(folder)), faults(folder)


def test_a_faster_run_does_not_hide_behind_numbers_that_fit(folder: Path) -> None:
    """Time, speed and wall time edited alike: the evaluations still tell the time to train."""
    run = record.read(folder)
    seconds = 0.8 * run["train_s"]
    edit(
        folder,
        train_s=seconds,
        wall_s=lambda s: s + seconds - run["train_s"],
        images_per_s=lambda speed: speed / 0.8,
    )
    [fault] = faults(folder)
    assert fault.startswith("its train_s is")


def test_every_fault_is_named_not_the_first_alone(folder: Path) -> None:
    edit(folder, wall_s=99.0, final_miou=44.17, recipe_fingerprint="0123456789ab")
    assert len(faults(folder)) == 3


def test_the_speed_of_a_resumed_run_is_not_asked_for(folder: Path) -> None:
    edit(folder, images_per_s=lambda speed: 2 * speed, resumed=1)
    assert faults(folder) == []


@pytest.mark.parametrize("name", ["recipe.toml", "workload.toml"])
@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("lr = 1", "is not the resolved")])
def test_settings_that_are_gone_or_foreign_are_named(
    name: str, content: str | None, words: str, folder: Path
) -> None:
    (folder / name).unlink()
    if content:
        (folder / name).write_text(content)
    [fault] = faults(folder)
    assert words in fault
    assert name in fault
    assert str(folder) not in fault


def test_edited_settings_are_named(folder: Path) -> None:
    path = folder / "recipe.toml"
    path.write_text(path.read_text().replace("batch_size = 16", "batch_size = 32"))
    assert faults(folder) == ["recipe.toml was edited or damaged: its fingerprint does not fit its values"]


@pytest.mark.parametrize(
    ("content", "words"), [("", "is missing or empty"), ('{"step": 1}\n{"step": 2}\n', "line 1 is damaged")]
)
def test_evaluations_that_say_nothing_are_named(content: str, words: str, folder: Path) -> None:
    (folder / "evals.jsonl").write_text(content)
    [fault] = faults(folder)
    assert fault.startswith("its evals.jsonl")
    assert words in fault


@pytest.mark.parametrize(
    ("number", "changes", "words"),
    [
        (1, None, "its evaluations do not follow the"),
        (1, {"step": 1}, "its evaluations do not follow the"),
        (1, {"train_s": 1e6}, "the train_s of its evaluations runs backwards"),
        (0, {"wall_s": -1.0}, "the wall_s of its evaluations runs backwards"),
        (1, {"miou": -3.0}, "an mIoU of its evaluations is not between 0 and 100"),
    ],
)
def test_an_edited_evaluation_in_the_middle_is_named(
    number: int, changes: dict[str, Any] | None, words: str, folder: Path
) -> None:
    rows = record.read_evals(folder)
    if changes is None:
        del rows[number]
    else:
        rows[number] |= changes
    record.write_evals(folder, rows)
    [fault] = faults(folder)
    assert fault.startswith(words)
