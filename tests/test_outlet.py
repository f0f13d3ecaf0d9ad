"""What cannot be written: an answer is missed and said to be, what is said by the way is not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import progress, runner
from bench.outlet import Asides
from tests.fake_matrix import TRAINER, ladder, make_plan, statuses

ROOT = Path(__file__).parents[1]
FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def segbench(*arguments: str, encoding: str = "utf-8", **streams: object) -> subprocess.CompletedProcess[str]:
    """Run it with buffers, which Python tries to write once more at its end."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUNBUFFERED": ""}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        timeout=60,
        **streams,
    )


@pytest.mark.parametrize(
    "arguments", [["recipes"], ["recipes", "show", "00"], ["--help"], ["--version"], ["run", "--help"]]
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_answer_that_cannot_be_written_is_an_error_in_a_line(arguments: list[str], encoding: str) -> None:
    with FULL.open("w") as full:
        done = segbench(*arguments, encoding=encoding, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == "Error: cannot write the answer: No space left on device"
    assert hint.startswith("Hint: ")


def test_a_reader_that_has_left_is_no_error_to_tell_of() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "recipes", "show", "00"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as answering:  # fmt: skip
        assert answering.stdout is not None
        assert answering.stderr is not None
        answering.stdout.close()
        assert answering.stderr.read() == ""


def test_an_error_that_nobody_hears_still_is_one() -> None:
    with FULL.open("w") as full:
        done = segbench("recipes", "show", "nothing", stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("terminal", [True, False])
def test_runs_go_on_where_nobody_can_be_told(tmp_path: Path, terminal: bool) -> None:
    recipes = ladder("fine", "later")
    with FULL.open("wb", buffering=0) as full:
        stream = Asides(io.TextIOWrapper(full, write_through=True))
        console = Console(file=stream, force_terminal=terminal)  # type: ignore[arg-type]
        display = progress.display(console, [each.name for each in recipes], range(1))
        result = runner.run(make_plan(recipes, tmp_path), display, trainer=TRAINER)
    assert statuses(result) == ["finished", "finished"]
