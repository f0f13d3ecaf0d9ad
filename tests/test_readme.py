"""The README tells the truth: its table, its picture, its map, its commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

import bench
from bench.cli import cli

ROOT = Path(bench.__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(path.name for path in (ROOT / "bench").glob("[!_]*.py"))


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Every table of a page in markdown: a dict a row, by the heads of the columns."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()
        )
        yield [dict(zip(head, row, strict=True)) for row in rows]


def test_every_cell_of_its_measured_table_stands_in_the_committed_report() -> None:
    """Which is that of the reference records: tests/test_reference.py."""
    [shown] = tables(README.split("<!-- measured -->")[1].split("<!-- end -->")[0])
    page = (ROOT / "reports" / "mini" / "report.md").read_text(encoding="utf-8")
    reported = cells(row for table in tables(page) for row in table if "rung" in row)
    assert [row["rung"][:2] for row in shown] == [f"{number:02}" for number in range(9)]
    assert cells(shown) <= reported


def cells(rows: Iterable[dict[str, str]]) -> set[tuple[str, str, str]]:
    """(rung, column, what it says)"""
    return {(row["rung"], *cell) for row in rows for cell in row.items()}


def test_its_first_screen_is_a_sentence_a_table_a_figure_and_two_commands() -> None:
    screen = "\n".join(README.splitlines()[:50])
    assert screen.count("![") == 1
    assert len(re.findall("^python3 -m venv", screen, re.MULTILINE)) == 2


PAGES = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md")}
PROSE = {page: re.sub(r"(?ms)^```.*?^```$", "", text) for page, text in PAGES.items()}
LINKS = [(page, target) for page, text in PROSE.items() for target in re.findall(r"\]\(([^)]+)\)", text)]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_every_link_leads_to_a_file_or_a_heading_of_it(page: str, target: str) -> None:
    if target.startswith("https://"):
        return
    name, _, heading = target.partition("#")
    assert (ROOT / name).exists()
    headings = re.findall("^#+ (.+)$", PAGES.get(name or page, ""), re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]
    assert not heading or heading in anchors


def test_package_changelog_and_citation_are_of_one_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    released = re.findall(r"^## (\S+) - (\S+)$", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert (cited["version"], str(cited["date-released"])) == released[0]
    assert cited["version"] == bench.__version__
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()


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
    assert commands[1].endswith("pytest -n 2 --dist worksteal --cov")
