"""The committed records: each is whole, and the committed report is theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import recipe, record, report, workload

ROOT = Path(bench.__file__).parent.parent
REFERENCE = ROOT / "results" / "reference"
MACHINES = sorted(path for path in REFERENCE.iterdir() if path.is_dir())
GIT: Any = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8"}
FOLDERS = list(record.folders(REFERENCE))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "/".join(folder.parts[-4:]))
def test_a_reference_record_is_whole(folder: Path) -> None:
    run, evals = record.read(folder), record.read_evals(folder)
    assert (run["status"], run["resumed"], run["git_dirty"], run["warnings"]) == ("finished", 0, False, [])
    assert folder == record.run_folder(folder.parents[2], run["workload"], run["recipe"], run["seed"])
    phases = ("setup_s", "train_s", "eval_s", "checkpoint_s")
    assert sum(run[phase] for phase in phases) == pytest.approx(run["wall_s"])
    assert run["final_miou"] == evals[-1]["miou"]
    assert run["images_per_s"] == pytest.approx(run["steps"] * run["batch_size"] / run["train_s"])
    how = recipe.parse((folder / "recipe.toml").read_text(encoding="utf-8"), "recipe.toml")
    what = workload.parse((folder / "workload.toml").read_text(encoding="utf-8"), "workload.toml")
    assert (how.fingerprint, what.fingerprint) == (run["recipe_fingerprint"], run["workload_fingerprint"])


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_whole_ladder_is_there_with_three_seeds(machine: Path) -> None:
    runs = bench.load(machine / "mini")
    assert set(runs["recipe"]) == {each.name for each in recipe.ladder()}
    assert set(runs.groupby("recipe")["seed"].nunique()) == {3}
    shipped = {each.name: each.fingerprint for each in recipe.ladder()}
    assert all(runs["recipe_fingerprint"] == runs["recipe"].map(shipped))
    assert set(runs["workload_fingerprint"]) == {workload.load("mini").fingerprint}


def test_every_rung_learns() -> None:
    """Eight times what always predicting the most frequent class scores, and no class is given up."""
    runs = bench.load(REFERENCE)
    for folder in runs["folder"]:
        rows = (Path(folder) / "confusion.csv").read_text(encoding="utf-8").splitlines()[1:]
        labelled = [sum(map(int, row.split(",")[1:])) for row in rows]
        most_frequent = 100 * max(labelled) / sum(labelled) / len(labelled)
        assert record.read(Path(folder))["final_miou"] >= 8 * most_frequent
    for _, rung in runs.groupby("recipe"):
        assert all(
            sum(run[name] for run in rung["per_class_iou"]) > 0 for name in rung["per_class_iou"].iloc[0]
        )


def test_the_committed_report_is_that_of_the_records(tmp_path: Path) -> None:
    """Of the commit, not of the working tree: `segbench report` writes what was measured here over it."""
    (page,) = report.write(MACHINES[0], tmp_path, None)
    listed = subprocess.run(["git", "ls-tree", "--name-only", "HEAD", "reports/mini/"], **GIT)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    assert {path.name for path in page.parent.iterdir()} == {
        Path(name).name for name in listed.stdout.split()
    }
    committed = subprocess.run(["git", "show", "HEAD:reports/mini/report.md"], **GIT)
    assert page.read_text(encoding="utf-8") == committed.stdout
