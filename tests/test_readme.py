"""The README tells the truth: its picture, its map, its commands. Its table: tests/test_reference.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import bench
from bench.cli import cli

ROOT = Path(bench.__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(path.name for path in (ROOT / "bench").glob("[!_]*.py"))


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


def test_its_map_names_every_benchmark_and_nothing_that_is_gone() -> None:
    named = set(re.findall(r"\b(\w+\.py)\b", README.split("## Where things are")[1]))
    benchmarks, scripts = (
        {path.name for path in (ROOT / each).glob("*.py")} for each in ("benchmarks", "scripts")
    )
    assert benchmarks <= named <= {*MODULES, *benchmarks, *scripts}


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_it_shows_every_command(command: str) -> None:
    assert re.search(rf"^segbench {command}\b", README, re.MULTILINE)


def test_two_commands_set_everything_up() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "segbench run --recipe all --seeds 3 && .venv/bin/segbench report" in commands[0]
    assert commands[1].endswith("pytest -n 2 --dist worksteal --cov")
