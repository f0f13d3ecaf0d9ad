"""The README tells the truth: its table, its picture, its map, its commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bench
from bench import report
from bench.cli import cli

ROOT = Path(bench.__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(path.name for path in (ROOT / "bench").glob("[!_]*.py"))


def test_every_row_of_its_measured_table_stands_in_the_reference_report(tmp_path: Path) -> None:
    table = README.split("<!-- measured -->")[1].split("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) >= 8 + 2, "header, rule and a row a rung"
    report.write(ROOT / "results" / "reference" / "epyc-2-core", tmp_path, None)
    lines = (tmp_path / "mini" / "report.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in lines] == []


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("module", MODULES)
def test_its_map_names_every_module(module: str) -> None:
    assert re.search(rf"\b{re.escape(module)}\b", README.split("## Where things are")[1])


def test_its_map_names_no_module_that_is_gone() -> None:
    named = re.findall(r"\b(\w+\.py)\b", README.split("## Where things are")[1])
    scripts = {path.name for folder in ("scripts", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    assert set(named) <= {*MODULES, *scripts}


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_it_shows_every_command(command: str) -> None:
    assert re.search(rf"^segbench {command}\b", README, re.MULTILINE)


def test_two_commands_set_everything_up() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "segbench run --recipe all --seeds 3 && .venv/bin/segbench report" in commands[0]
    assert commands[1].endswith("pytest")
