"""Whatever stands in a file or on the command line: a result, or one line of what and one of what to type.

Properties, over drawn recipes, workloads, records and command lines (hypothesis, always the same draws).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench import (
    BenchError,
    bulletin,
    check,
    cli,
    doctor,
    duel,
    figures,
    recipe,
    record,
    report,
    revision,
    scenes,
    server,
    workload,
)
from tests import fake_records, fake_revision, fake_train, small

settings.register_profile("the same", derandomize=True, deadline=None, database=None, max_examples=100)
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


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound records: two rungs, three seeds."""
    results = tmp_path_factory.mktemp("measured")
    fake_records.make(results, rungs=("00", "01"))
    return results


@given(
    changes=st.dictionaries(st.sampled_from(sorted(record.FIELD)), JSON, min_size=1, max_size=3),
    evals=st.none() | st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode),
)
def test_any_record_among_sound_ones_is_reported_and_compared_or_named(
    measured: Path, changes: dict[str, Any], evals: bytes | None
) -> None:
    """The tables of the page; its figures are drawn from the same numbers, in seconds."""
    folder = record.run_folder(measured, "mini", "01-new-weights", 1)
    kept = {path: path.read_bytes() for path in (folder / "run.json", folder / "evals.jsonl")}
    try:
        (folder / "run.json").write_text(json.dumps({**json.loads(kept[folder / "run.json"]), **changes}))
        if evals is not None:
            (folder / "evals.jsonl").write_bytes(evals)
        with TemporaryDirectory() as out, mock.patch.object(figures, "draw", return_value=[]):
            answers(lambda: report.write(measured, Path(out), None))
        answers(lambda: bulletin.markdown(check.compare(measured, measured, 0.02, convergence=True)))
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


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
DRAWN_BELOW = {"run", "doctor"}  # they ask a process that has torch


@given(words=st.lists(WORDS, max_size=6))
def test_any_command_line_ends_with_an_exit_code_and_no_traceback(words: list[str]) -> None:
    assume(words[:1] == [] or words[0] not in DRAWN_BELOW)
    with TemporaryDirectory() as folder, chdir(folder):
        ends(words)


def ends(words: Sequence[str]) -> int:
    """The exit code of a command line, which has one, and says what to type next where something is wrong."""
    done = CliRunner().invoke(cli.cli, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 1, 2, 3, 4)
    if done.exit_code == 2 and "Hint: " not in done.stderr:  # click's own
        assert "--help" in done.stderr or done.stderr.startswith("Usage: ")
    elif done.exit_code:
        assert "Error: " in done.stderr
        assert "Hint: " in done.stderr
    return done.exit_code


def test_every_other_command_is_drawn() -> None:
    assert isinstance(cli.cli, click.Group)
    assert set(cli.cli.commands) == {"recipes", "report", "check", "prepare"} | DRAWN_BELOW


# Command lines that may get far: their options, each with values good and bad

PATHS = ["pictures", "empty", "file", "absent", "absent/deep", "/dev/null", "/proc/no", ".", "", "a" * 300]
NUMBERS_GIVEN = ["1", "2", "3", "8", "0", "-1", "x", "", "1e3", str(10**30)]
RECIPES = ["00", "07", "0", "all", "mine.toml", "torn.toml", "absent.toml", "file", "empty", "00,07", ",", ""]
COMMON = {
    "--workload": ["mini", "camvid", "ade20k", "ade20k-fake", "own.toml", "torn.toml", "min", "", "empty"],
    "--data": PATHS,
    "--weights": PATHS,
    "--device": ["auto", "cpu", "cuda", "abacus"],
}
RUN = {
    **COMMON,
    "--recipe": RECIPES,
    "--seeds": NUMBERS_GIVEN,
    "--devices": NUMBERS_GIVEN,
    "--results": PATHS + ["results"],
    "--deterministic": [],
}
DOCTOR = {**COMMON, "--devices": NUMBERS_GIVEN, "--results": PATHS + ["results"], "--json": []}
AGAINST = {
    **COMMON,
    "--recipe": RECIPES,
    "--pairs": NUMBERS_GIVEN,
    "--tolerance": ["2%", "0", "0.5", "100%", "nan", "x", ""],
    "--strict": [],
    "--format": ["text", "markdown", "json", "github", "html"],
}
REFS = ["HEAD", "HEAD", "HEAD~1", "absent", "", "-x", "HEAD:bench", "..", "@{-1}", "a b", "\u2028"]

WILD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)  # as in an argv


def lines(options: Mapping[str, Sequence[str]]) -> st.SearchStrategy[list[str]]:
    """Some of the options, now and then with a value of none of them."""
    drawn = [
        st.tuples(st.just(name), st.sampled_from(values) | WILD) if values else st.tuples(st.just(name))
        for name, values in options.items()
    ]
    return st.lists(st.one_of(drawn), max_size=4).map(lambda pairs: [word for pair in pairs for word in pair])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder that holds what the values name; who has torch is a fake, in this process."""
    folder = tmp_path_factory.mktemp("place")
    small.pair(folder / "pictures")
    (folder / "empty").mkdir()
    (folder / "file").touch()
    (folder / "mine.toml").write_text('extends = "00"\ntitle = "mine"\n[optim]\nlr = 0.5\n')
    (folder / "own.toml").write_text(
        'extends = "mini"\ntitle = "own"\n'
        '[data]\nsource = "folder"\nclasses = ["a"]\ntrain_images = 0\nval_images = 0\n'
    )
    (folder / "torn.toml").write_text("extends = [")
    with (
        chdir(folder),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SEGBENCH_CACHE", str(folder / "cache"))
        patch.setattr(server, "start", lambda trainer: None)
        patch.setattr(server, "ask", lambda _, __, what, *about, **___: getattr(fake_train, what)(*about))
        yield folder


@given(words=lines(RUN))
def test_any_plan_of_a_run_is_told_or_refused(place: Path, words: list[str]) -> None:
    ends(["run", "--dry-run", *words])


@given(words=lines(DOCTOR))
def test_any_question_to_the_doctor_is_answered_or_refused(place: Path, words: list[str]) -> None:
    ends(["doctor", *words])


@pytest.fixture(scope="module")
def checkout(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A repository of two commits that `check --against` takes for its own; its pairs cost nothing."""
    side = {"batch_size": 16, "recipe": {}, "workload": {}, "torch": "2.0", "probe": "fake"}

    def measure(old: Any, new: Any, task: Any, number: int) -> duel.Pair:
        return duel.Pair(side, side, ({"step": 0.1},) * 3, ({"step": 0.1 + number / 1e4},) * 3)

    with pytest.MonkeyPatch.context() as patch:
        fake_revision.without_git_variables(patch)
        root = fake_revision.write(tmp_path_factory.mktemp("checkout"))
        for _ in range(2):
            fake_revision.commit(root)
        here = revision.here
        patch.setattr(revision, "here", lambda: here(root / "bench"))
        patch.setattr(scenes, "ensure", lambda *_: None)
        patch.setattr(duel, "measure", measure)
        yield


@settings(max_examples=60)  # a worktree each
@given(ref=st.sampled_from(REFS) | WILD, words=lines(AGAINST))
def test_any_check_against_a_commit_is_judged_or_refused(checkout: None, ref: str, words: list[str]) -> None:
    ends(["check", "--against", ref, *words])
