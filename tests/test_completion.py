"""What a shell is offered at the places where names stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from bench.cli import cli


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("07-mine.toml", "mine/other.toml", "notes.txt"):
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("typed", "begun", "offered"),
    [
        (["run", "--recipe"], "07", ["07-no-sync-bn", "07-mine.toml"]),
        (["run", "--recipe"], "06-batch-128,07-n", ["06-batch-128,07-no-sync-bn"]),
        (["run", "--recipe"], "s", ["speed/all"]),
        (["run", "--recipe"], "mine/", ["mine/other.toml"]),
        (["run", "--recipe"], "n", []),
        (["run", "--workload"], "m", ["mini"]),
        (["doctor", "--workload"], "ade20k-", ["ade20k-fake", "ade20k-native"]),
        (["check", "--recipe"], "06-batch-128,07-n", ["06-batch-128,07-no-sync-bn"]),
        (["recipes", "show"], "s", []),
        (["recipes", "show"], "12", ["12-compile"]),
        (["recipes", "diff", "00"], "07-", ["07-no-sync-bn", "07-mine.toml"]),
    ],
)
def test_names_and_files_are_offered(typed: list[str], begun: str, offered: list[str]) -> None:
    found = ShellComplete(cli, {}, "segbench", "_SEGBENCH_COMPLETE").get_completions(typed, begun)
    assert [each.value for each in found] == offered
