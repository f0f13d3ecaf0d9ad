"""The workflows of this repository, and those of CI.md, are YAML and say what the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import bench
from bench import recipe, workload
from bench.cli import cli

ROOT = Path(bench.__file__).parent.parent
OWN = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGE = (ROOT / "CI.md").read_text(encoding="utf-8")
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in OWN}
for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)):
    TEXTS[f"CI.md {number}"] = block


def load(text: str) -> dict[str, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(text)
    # YAML 1.1 reads `on` as true
    return {"on" if key is True else key: value for key, value in loaded.items()}


def scripts(text: str) -> Iterator[str]:
    """Every line of shell that a workflow runs."""
    for job in load(text)["jobs"].values():
        for step in job["steps"]:
            yield from step.get("run", "").splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """The arguments of every segbench in a line of shell."""
    for part in re.split(r"&&|;|\|", line):
        words = shlex.split(part)
        if words and Path(words[0]).name == "segbench":
            yield words[1:]


ALL_COMMANDS = [
    pytest.param(arguments, id=f"{name}: {' '.join(arguments)}")
    for name, text in TEXTS.items()
    for line in scripts(text)
    for arguments in commands(line)
]


@pytest.mark.parametrize("name", TEXTS)
def test_a_workflow_has_a_trigger_and_jobs_of_steps_that_run_or_use_something(name: str) -> None:
    workflow = load(TEXTS[name])
    assert workflow["on"]
    assert workflow["jobs"]
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])


@pytest.mark.parametrize("arguments", ALL_COMMANDS)
def test_every_segbench_in_a_workflow_is_one_that_the_command_line_takes(arguments: list[str]) -> None:
    command = cli.commands[arguments[0]]
    context = command.make_context(arguments[0], arguments[1:], resilient_parsing=False)
    known = context.params
    assert recipe.select(name for names in known["names"] for name in names.split(","))
    assert workload.load(known["workload_name"])
    if arguments[0] == "check":
        assert (known["baseline"] is None) != (known["ref"] is None)
        assert known["form"] == "github"


def test_a_wrong_option_in_a_workflow_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        cli.commands["check"].make_context("check", ["--agianst", "HEAD^1"])


def test_there_is_a_check_of_throughput_that_sees_what_a_pull_request_is_merged_into() -> None:
    workflow = load(TEXTS["throughput.yml"])
    assert "pull_request" in workflow["on"]
    [job] = workflow["jobs"].values()
    [line] = [line for step in job["steps"] for line in step.get("run", "").splitlines() if "check" in line]
    assert "--against HEAD^1 --format github" in line
    assert [step["with"]["fetch-depth"] for step in job["steps"] if "checkout" in step.get("uses", "")] == [2]


def test_the_tests_run_on_every_python_as_the_readme_says() -> None:
    [job] = load(TEXTS["tests.yml"])["jobs"].values()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [passing] = re.findall(r"all tests pass with ([^(]*)\(", readme)
    assert job["strategy"]["matrix"]["python"] == sorted(re.findall(r"\b3\.\d+", passing))
    [said] = re.findall(r"^python3 -m venv .*pytest .*--cov$", readme, re.MULTILINE)
    assert said in [step.get("run") for step in job["steps"]]


def test_no_workflow_may_write_to_the_repository() -> None:
    assert [load(TEXTS[path.name])["permissions"] for path in OWN] == [{"contents": "read"}] * len(OWN)
