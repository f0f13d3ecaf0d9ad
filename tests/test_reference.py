"""The committed records: each is whole, and the committed report is theirs."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import recipe, record, report, soundness, workload

ROOT = Path(bench.__file__).parent.parent
REFERENCE = ROOT / "results" / "reference"
MACHINES = sorted(path for path in REFERENCE.iterdir() if path.is_dir())
GIT: Any = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8"}
FOLDERS = list(record.folders(REFERENCE))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "/".join(folder.parts[-4:]))
def test_a_reference_record_is_whole(folder: Path) -> None:
    run = record.read(folder)
    assert (run["status"], run["resumed"], run["git_dirty"], run["warnings"]) == ("finished", 0, False, [])
    assert folder == record.run_folder(folder.parents[2], run["workload"], run["recipe"], run["seed"])
    assert soundness.faults(folder, run) == []


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_rung_that_is_there_has_three_seeds_and_the_shipped_values(machine: Path) -> None:
    runs = bench.load(machine)
    assert set(runs.groupby(["workload", "recipe"])["seed"].nunique()) == {3}
    shipped = {each.name: each.fingerprint for each in recipe.ladder()}
    assert all(runs["recipe_fingerprint"] == runs["recipe"].map(shipped))
    now = {name: workload.load(name).fingerprint for name in workload.shipped()}
    assert all(runs["workload_fingerprint"] == runs["workload"].map(now))


def test_the_whole_ladder_of_mini_is_there() -> None:
    assert set(bench.load(MACHINES[0] / "mini")["recipe"]) == {each.name for each in recipe.ladder()}


def test_no_picture_is_there_that_may_not_be_shown() -> None:
    for folder in FOLDERS:
        what = workload.parse((folder / "workload.toml").read_text(encoding="utf-8"), "workload.toml")
        assert what.values["data"]["redistributable"] or not list(folder.rglob("*.png"))


def test_every_rung_learns() -> None:
    """Five times what always predicting the most frequent class scores (mini: eight times, and no class is
    given up)."""
    runs = bench.load(REFERENCE)
    for folder, name in zip(runs["folder"], runs["workload"], strict=True):
        rows = (Path(folder) / "confusion.csv").read_text(encoding="utf-8").splitlines()[1:]
        labelled = [sum(map(int, row.split(",")[1:])) for row in rows]
        most_frequent = 100 * max(labelled) / sum(labelled) / len(labelled)
        times = 8 if name == "mini" else 5
        assert record.read(Path(folder))["final_miou"] >= times * most_frequent
    for _, rung in runs[runs["workload"] == "mini"].groupby("recipe"):
        assert all(
            sum(run[name] for run in rung["per_class_iou"]) > 0 for name in rung["per_class_iou"].iloc[0]
        )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], list[Path]]:
    """The reports of the records, written now: in the working tree lies what `segbench report` wrote last.

    Written by the first test that asks, not before it: what comes before a test is always traced.
    """
    return functools.cache(lambda: report.write(MACHINES[0], tmp_path_factory.mktemp("reports"), None))


def test_the_committed_reports_are_those_of_the_records(pages: Callable[[], list[Path]]) -> None:
    for page in pages():
        name = page.parent.name
        listed = subprocess.run(["git", "ls-tree", "--name-only", "HEAD", f"reports/{name}/"], **GIT)
        if listed.returncode:
            pytest.skip("this is no git checkout")
        assert {path.name for path in page.parent.iterdir()} == {
            Path(line).name for line in listed.stdout.split()
        }
        for each in ("report.md", "report.json", "tables/quality.csv"):
            committed = subprocess.run(["git", "show", f"HEAD:reports/{name}/{each}"], **GIT)
            assert (page.parent / each).read_text(encoding="utf-8") == committed.stdout


def test_every_cell_of_the_readmes_measured_table_stands_in_the_report(
    pages: Callable[[], list[Path]],
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [shown] = tables(readme.split("<!-- measured -->")[1].split("<!-- end -->")[0])
    [page] = [page for page in pages() if page.parent.name == "mini"]
    written = tables(page.read_text(encoding="utf-8"))
    assert [row["rung"][:2] for row in shown] == [f"{number:02}" for number in range(9)]
    assert cells(shown) <= cells(row for table in written for row in table if "rung" in row)


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Every table of a page in markdown: a dict a row, by the heads of the columns."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()
        )
        yield [dict(zip(head, row, strict=True)) for row in rows]


def cells(rows: Iterable[dict[str, str]]) -> set[tuple[str, str, str]]:
    """(rung, column, what it says)"""
    return {(row["rung"], *cell) for row in rows for cell in row.items()}
