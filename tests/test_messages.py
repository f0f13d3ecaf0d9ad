"""Whatever stands in a file or on the command line: a result, or one line of what and one of what to type.

Properties, over drawn recipes, workloads, records and command lines (hypothesis, always the same draws).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench import BenchError, bulletin, check, cli, doctor, recipe, record, workload

settings.register_profile("the same", derandomize=True, deadline=None, database=None, max_examples=150)
settings.load_profile("the same")

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**30])
SCALARS = st.booleans() | NUMBERS | st.text(max_size=12)
KEYS = [
    "lr", "batch_size", "optimizer", "schedule", "sync_bn", "weights", "precision", "crop", "epochs",
    "replicas", "classes", "source", "widths", "rates", "v1", "evaluations", "target_miou", "threads",
    "leave_out",
]  # fmt: skip
NAMES = st.sampled_from(KEYS) | st.text(max_size=8)
SECTIONS = st.sampled_from(["optim", "model", "replicas", "system", "data", "train", "evaluation"]) | st.text(
    max_size=6
)
PARENTS = st.sampled_from(["00-mmseg-baseline", "07-no-sync-bn", "mini", "ade20k", "mine", "none", ""])


def toml(value: Any) -> str:
    """A TOML value: JSON's, but for what JSON has not."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


@st.composite
def diffs(draw: Callable[..., Any]) -> str:
    """The text of a recipe or workload that might be one."""
    header = {"extends": draw(PARENTS | SCALARS), "title": draw(SCALARS), "why": draw(SCALARS)}
    kept = draw(st.sets(st.sampled_from(sorted(header))))
    lines = [f"{key} = {toml(value)}" for key, value in header.items() if key in kept or draw(st.booleans())]
    values = SCALARS | st.lists(SCALARS, max_size=4)
    sections = draw(st.dictionaries(SECTIONS, st.dictionaries(NAMES, values, max_size=3), max_size=3))
    for section, content in sections.items():
        lines.append(f"[{json.dumps(section)}]")
        lines += [f"{json.dumps(key)} = {toml(value)}" for key, value in content.items()]
    return "\n".join(lines)


FLAT = st.none() | SCALARS
DEEP = FLAT | st.lists(FLAT, max_size=3) | st.dictionaries(st.text(max_size=6), FLAT, max_size=3)
JSON = DEEP | st.lists(DEEP, max_size=3) | st.dictionaries(st.text(max_size=6), DEEP, max_size=3)


def answers(ask: Callable[[], object]) -> None:
    """It answers, or refuses in one line with what to do about it."""
    refused = None
    try:
        ask()
    except BenchError as error:
        refused = error
    if refused is not None:
        assert refused.message
        assert "\n" not in refused.message
        assert refused.hint


@pytest.mark.parametrize("load", [recipe.load, workload.load])
@given(content=diffs().map(str.encode) | st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_recipe_or_workload_is_loaded_or_refused(load: Callable[[Path], object], content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.toml"
        path.write_bytes(content)
        answers(lambda: load(path))


@given(changes=st.dictionaries(st.sampled_from(sorted(record.FIELD)) | st.text(max_size=6), JSON, max_size=3))
def test_any_record_is_read_and_compared_or_refused(changes: dict[str, Any]) -> None:
    sound = record.blank(
        workload="mini",
        recipe="r",
        seed=0,
        status="finished",
        recipe_fingerprint="a",
        workload_fingerprint="b",
    )
    with TemporaryDirectory() as results:
        folder = record.run_folder(Path(results), "mini", "r", 0)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({**sound, **changes}))
        answers(lambda: record.load(Path(results)))
        answers(
            lambda: bulletin.markdown(check.compare(Path(results), Path(results), 0.02, convergence=True))
        )


@given(content=st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode))
def test_any_file_beside_a_record_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("run.json", "evals.jsonl", doctor.FILE):
            (folder / file).write_bytes(content)
        for read in (record.read, record.read_evals, doctor.read):
            answers(lambda read=read: read(folder))


KNOWN = [
    "recipes", "show", "diff", "report", "check", "prepare", "ade20k", "camvid", "00-mmseg-baseline",
    "07", "all", "--results", "--baseline", "--target", "--out", "--tolerance", "--format", "--strict",
    "--convergence", "--data", "--pairs", "--workload", "--help", "json", "2%", "nan", "-1", "absent",
    "/dev/null", ".",
]  # fmt: skip
WORDS = st.sampled_from(KNOWN) | st.text(max_size=5)
UNDRAWN = {"run", "doctor"}  # they train, or look at the machine


@given(words=st.lists(WORDS, max_size=6))
def test_any_command_line_ends_with_an_exit_code_and_no_traceback(words: list[str]) -> None:
    assume(words[:1] == [] or words[0] not in UNDRAWN)
    with TemporaryDirectory() as folder, chdir(folder):
        done = CliRunner().invoke(cli.cli, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 1, 2, 4)
    if done.exit_code in (1, 4):
        assert "Error: " in done.stderr
        assert "Hint: " in done.stderr


def test_every_other_command_is_drawn() -> None:
    assert isinstance(cli.cli, click.Group)
    assert set(cli.cli.commands) == {"recipes", "report", "check", "prepare"} | UNDRAWN
