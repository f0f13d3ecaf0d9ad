"""The command line: what it prints where, and the code it exits with. Training is `tests.fake_train`."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench import STOPS, BenchError, __version__, cli, doctor, matrix, prepare, record, runner, training
from bench.archive import Watch
from tests import fake_train, small

ROOT = Path(__file__).parents[1]
TRAINER = "tests.fake_train"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with a workload of pictures and a trainer without torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matrix, "plan", functools.partial(matrix.plan, trainer=TRAINER))
    monkeypatch.setattr(runner, "run", functools.partial(runner.run, trainer=TRAINER))
    (tmp_path / "photographs.toml").write_text(
        'extends = "mini"\ntitle = "photographs"\n'
        '[data]\nsource = "folder"\ntrain_images = 0\nval_images = 0\n'
        "[train]\nat_once = 1\n"
    )
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    small.pair(tmp_path / "pictures")
    return tmp_path


def recipe(place: Path, title: str) -> str:
    """The path of a recipe that does in the fake trainer what its title says."""
    path = place / f"{title}.toml"
    path.write_text(f'extends = "00-mmseg-baseline"\ntitle = "{title}"\n[optim]\nlr = 0.5\n')
    return str(path)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.cli, [str(each) for each in arguments], prog_name="segbench")


def train(place: Path, *titles: str, more: tuple[str, ...] = ()) -> Result:
    names = ",".join(recipe(place, title) for title in titles)
    options = ["--recipe", names, "--seeds", "1", "--workload", "photographs.toml", "--data", "pictures"]
    return call("run", *options, *more)


def commands(group: click.Group = cli.cli, path: str = "segbench") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict(commands())
NO_SHARES = ("", "%", "much", "2", "100%", "-1%", "-0.02", "nan", "inf%", "2%%", "2,5%", "2 %  of it")


# ----------------------------------------------------------------------------------------------------- help


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys\n"
        "from bench import cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "segbench run" in done.stdout
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "pandas", "matplotlib", "scipy", "rich", "PIL"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_gives_an_example(name: str) -> None:
    done = call(*name.split()[1:], "--help")
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"  {name}" in done.output.split("Example", 1)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    options = [each for each in COMMANDS[name].params if isinstance(each, click.Option)]
    assert [each.name for each in options if not each.help] == []


def test_the_version_names_torch_without_importing_it() -> None:
    done = call("--version")
    assert done.output.startswith(f"segbench {__version__}, torch ")
    assert done.exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["runn"],
        ["run", "--seeds", "0"],
        ["run", "--seeds", "-1"],
        ["run", "--seeds", "three"],
        ["run", "--device", "abacus"],
        ["run", "--recipe", ","],
        ["run", "--recipes", "all"],
        ["report", "--target", "101"],
        ["check"],
        *(["check", "--baseline", "x", f"--tolerance={text}"] for text in NO_SHARES),
        ["check", "--baseline", "x", "--format", "html"],
        ["check", "--baseline", "x", "--against", "HEAD"],
        ["check", "--against", "HEAD", "--results", "x"],
        ["check", "--against", "HEAD", "--convergence"],
        ["check", "--against", "HEAD", "--pairs", "2"],
        ["check", "--against", "HEAD", "--recipe", ","],
        *(
            ["check", "--baseline", "x", f"--{option}"]
            for option in ("recipe=00", "workload=mini", "data=x", "weights=x", "device=cpu", "pairs=9")
        ),
        ["recipes", "diff", "00"],
        ["prepare", "camvid", "source"],
        ["prepare", "ade20k", "only-one"],
        ["prepare", "ade20k", "--download", "source", "dest"],
        ["prepare", "ade20k", "one", "two", "three"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], place: Path) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr
    assert done.stdout == ""
    assert not (place / "results").exists()


def test_a_mistyped_command_is_guessed() -> None:
    assert "Did you mean 'run'?" in call("runn").stderr


# ------------------------------------------------------------------------------------------------ bad input


def bad_recipe(text: str) -> dict[str, str]:
    return {"mine.toml": text}


EXTENDS = 'extends = "00-mmseg-baseline"\ntitle = "mine"\n'


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["run", "--recipe", "nope"], {}),
        (["run", "--recipe", "nope.toml"], {}),
        (["run", "--recipe", "mine.toml"], bad_recipe("extends = [")),
        (["run", "--recipe", "mine.toml"], bad_recipe(EXTENDS + "[optim]\nlearning_rate = 1.0")),
        (["run", "--recipe", "mine.toml"], bad_recipe(EXTENDS + '[optim]\nlr = "fast"')),
        (["run", "--recipe", "mine.toml"], bad_recipe(EXTENDS)),
        (["run", "--workload", "nope"], {}),
        (["run", "--device", "cuda", "--workload", "photographs.toml", "--data", "pictures"], {}),
        (["run", "--workload", "photographs.toml"], {}),
        (["run", "--workload", "photographs.toml", "--data", "nowhere"], {}),
        (["run", "--data", "pictures"], {}),
        (["run", "--weights", "pictures"], {}),
        (["run", "--results", "file", "--workload", "photographs.toml", "--data", "pictures"], {"file": ""}),
        (["run", "--results", "/proc/x", "--workload", "photographs.toml", "--data", "pictures"], {}),
        (
            ["run", "--workload", "photographs.toml", "--data", "pictures"],
            {"results/local/photographs/03-cosine/seed-2/run.json": '{"schema": 1, "sta'},
        ),
        (
            ["run", "--workload", "photographs.toml", "--data", "pictures"],
            {"results/local/photographs/03-cosine/seed-2/run.json": "[]"},
        ),
        (["recipes", "show", "nope"], {}),
        (["recipes", "diff", "00", "nope"], {}),
        (["report"], {}),
        (["prepare", "camvid", "nowhere", "data"], {}),
        (["prepare", "camvid", "pictures", "data"], {}),
        (["prepare", "camvid", "pictures", "pictures/data"], {}),
        (["prepare", "ade20k", "pictures", "data"], {}),
        (["prepare", "ade20k", "page.zip", "data"], {"page.zip": "<html>"}),
        (["prepare", "ade20k", "cut.zip", "data"], {"cut.zip": "PK and no more"}),
        (["prepare", "ade20k", "a.zip", "file"], {"file": ""}),
        (["prepare", "cache", "nowhere", "cache"], {}),
        (["prepare", "cache", "pictures", "pictures"], {}),
        (["prepare", "cache", "pictures", "file"], {"file": ""}),
        (["run", "--cache", "pictures"], {}),
        (["run", "--workload", "photographs.toml", "--data", "pictures", "--cache", "nowhere"], {}),
        (
            ["run", "--workload", "photographs.toml", "--data", "pictures", "--cache", "broken"],
            {"broken/index.json": "{}"},
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_of_what_and_one_of_what_to_do(
    arguments: list[str], files: dict[str, str], place: Path
) -> None:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
    done = call(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    what, hint = [line for line in done.stderr.splitlines() if not line.startswith(("drawing", "checksums"))]
    assert what.startswith("Error: ")
    assert hint.startswith("Hint: ")
    assert list(place.glob("results/local/**/log.txt")) == []


def test_the_exit_code_is_that_of_the_error(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise BenchError("nothing to judge", "train something", code=4)

    monkeypatch.setattr(matrix, "plan", fail)
    done = call("run")
    assert (done.exit_code, done.stderr) == (4, "Error: nothing to judge\nHint: train something\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(matrix, "plan", fail)
    assert isinstance(call("run").exception, ZeroDivisionError)


def test_an_interrupt_before_training_exits_with_130(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "plan", fail)
    done = call("run")
    assert done.exit_code == 130
    assert done.stderr.strip() == "Interrupted."


# ------------------------------------------------------------------------------------------------------ run


def test_results_go_to_stdout_and_progress_to_stderr(place: Path) -> None:
    done = train(place, "one", "two")
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()[3:]] == [
        ["one", "20.00", "1", "500", "2.0"],
        ["two", "20.00", "1", "500", "2.0"],
        ["Next:", "segbench", "report"],
    ]
    assert done.stderr.splitlines()[-1] == "[2/2] two seed 0  finished  mIoU 20.0  500 img/s  train 2.0 s"
    assert record.read(place / "results/local/photographs/one/seed-0")["status"] == "finished"


def test_the_next_command_names_the_results_folder(place: Path) -> None:
    done = train(place, "one", more=("--results", "my results"))
    assert done.stdout.endswith("Next: segbench report --results 'my results'\n")


def test_a_finished_matrix_is_told_again_without_training(place: Path) -> None:
    first, second = train(place, "one"), train(place, "one")
    assert first.stdout == second.stdout
    assert second.stderr == ""


def test_a_recipe_asked_for_twice_is_trained_once(place: Path) -> None:
    path = recipe(place, "one")
    done = train(place, "one", more=("--recipe", path))
    assert done.stderr.count("finished") == 1


def test_the_record_has_the_command_that_made_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/segbench", "run", "--results", "my results"])
    train(place, "one")
    run = record.read(place / "results/local/photographs/one/seed-0")
    assert run["command"] == "segbench run --results 'my results'"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(place: Path) -> None:
    train(place, "one")
    done = train(place, "one", "two", more=("--dry-run",))
    assert done.exit_code == 0
    assert [line.split()[:4] for line in done.stdout.splitlines()[2:4]] == [
        ["one", "0", "1", "nothing:"], ["two", "0", "2", "train"]
    ]  # fmt: skip
    assert done.stdout.splitlines()[-1] == "1 of 2 runs to train on cpu, into results/local/photographs"
    assert done.stderr == ""
    assert not (place / "results/local/photographs/two").exists()


def test_failed_runs_are_named_at_the_end_and_the_others_are_kept(place: Path) -> None:
    done = train(place, "fail", "kill", "one")
    assert done.exit_code == 1
    assert "one" in done.stdout
    assert "Next" not in done.stdout
    assert done.stderr.splitlines()[-6:] == [
        "fail seed 0 failed: image 7 is damaged",
        "  log: results/local/photographs/fail/seed-0/log.txt",
        "kill seed 0 failed: killed by SIGKILL, perhaps for want of memory",
        "  log: results/local/photographs/kill/seed-0/log.txt",
        "Error: 2 of 3 runs have no result",
        "Hint: fetch it again; the same command then trains only what is missing",
    ]


def test_runs_that_fail_alike_are_named_together(place: Path) -> None:
    recipe(place, "fail")
    done = train(place, "fail", more=("--seeds", "5"))
    assert "fail seed 0, fail seed 1, fail seed 2 and 2 more failed: image 7 is damaged" in done.stderr


def test_a_diverged_run_is_a_result(place: Path) -> None:
    done = train(place, "diverge", "one")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[-1] == "diverge seed 0 diverged: the loss was nan at step 3"


def test_a_run_left_to_another_segbench_is_missing(place: Path) -> None:
    lock = training.Lock.take(place / "results/local/photographs/one/seed-0")
    assert lock is not None
    try:
        done = train(place, "one", "two")
    finally:
        lock.close()
    assert done.exit_code == 1
    assert "one seed 0 is trained by another segbench" in done.stderr
    assert "1 of 2 runs has no result" in done.stderr


# ------------------------------------------------------------------------------------------- from the outside

SCRIPT = f"""
import functools, sys
from bench import matrix, runner
from bench.cli import main
if __name__ == "__main__":
    matrix.plan = functools.partial(matrix.plan, trainer="{TRAINER}")
    runner.run = functools.partial(runner.run, trainer="{TRAINER}")
    sys.exit(main())
"""


def test_ctrl_c_saves_the_run_and_says_how_to_go_on(place: Path) -> None:
    script = place / "segbench"
    script.write_text(SCRIPT)  # as an installed console script: a file that children import again
    options = ["--seeds", "1", "--workload", "photographs.toml", "--data", "pictures"]
    arguments = ["run", "--recipe", recipe(place, "wait"), *options]
    with subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        first = [process.stderr.readline() for _ in range(3)]
        folder = place / "results/local/photographs/wait/seed-0"
        while not (folder / "run.json").exists():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: runner, server and run, all at once
        rest = process.stderr.read()
    assert first == [
        "loading weights v1; what is not there is fetched\n",
        "verifying 2 pairs, once\n",
        "[1/1] wait seed 0  starts\n",
    ]
    assert process.returncode == 130
    assert rest.endswith(
        f"Interrupted. What was trained is saved; this goes on with it:\n  segbench {shlex.join(arguments)}\n"
    )
    assert "Traceback" not in rest + (folder / "log.txt").read_text()
    run = record.read(folder)
    assert (run["status"], run["steps_done"]) == ("interrupted", 7)

    done = train(place, "wait")
    assert done.exit_code == 0
    assert record.read(folder)["resumed"] == 1


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("segbench ")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_terminal_cannot_show_is_written_as_its_number(place: Path, encoding: str) -> None:
    (place / "mine.toml").write_text('extends = "00-mmseg-baseline"\ntitle = "5 → 6"\n[optim]\nlr = 0.5\n')
    done = subprocess.run(
        [sys.executable, "-m", "bench", "recipes", "show", "mine.toml"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert '"5 \\u2192 6"' in done.stdout  # as TOML would have it


# -------------------------------------------------------------------------------------------------- recipes


def test_the_ladder_is_listed_with_what_each_rung_changes() -> None:
    lines = call("recipes").stdout.splitlines()
    named = [line.split()[0] for line in lines if line[:2].isdigit()]
    assert len(named) == 9 + 4, "the ladder, then that of speed"
    assert (named[0], named[9], named[-1]) == ("00-mmseg-baseline", "10-plain", "13-bf16")
    [row] = [line.split() for line in lines if line.startswith("01-")]
    assert row == ["01-new-weights", "model.weights", "=", '"v2"', "yes"]
    assert [line.split()[-1] for line in lines if line.startswith("08-")] == ["no"]


def test_a_recipe_is_shown_as_it_would_be_recorded() -> None:
    from bench import recipe

    assert recipe.parse(call("recipes", "show", "03").stdout, "stdout") == recipe.load("03")


def test_a_difference_lists_only_what_differs() -> None:
    rows = [line.split() for line in call("recipes", "diff", "06", "07").stdout.splitlines()]
    assert rows[2:] == [["replicas.sync_bn", "true", "false"]]


def test_equal_recipes_are_said_to_be_equal() -> None:
    assert call("recipes", "diff", "06", "06").stdout == "06-batch-128 and 06-batch-128 say the same.\n"


# --------------------------------------------------------------------------------------------------- report


def test_report_writes_what_it_is_told_and_names_the_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from bench import report

    asked: list[Any] = []

    def write(*arguments: Any) -> list[Path]:
        asked.append(arguments)
        return [tmp_path / "mini" / "report.md"]

    monkeypatch.setattr(report, "write", write)
    done = call("report", "--results", "a", "--out", "b", "--target", "30")
    assert asked == [(Path("a"), Path("b"), 30.0)]
    assert done.stdout == f"{tmp_path}/mini/report.md\n"


# ---------------------------------------------------------------------------------------------------- check

REFERENCE = ROOT / "results" / "reference" / "epyc-2-core" / "mini"


def slower(place: Path) -> Path:
    """Well-formed records of which rung 03 takes twice the time it takes in `place / "old"`."""
    from tests.test_check import slow, write

    for number, side in enumerate(("old", "new")):
        write(place / side, np.random.default_rng(number), ("00", "03"))
    slow(place / "new", "03")
    return place / "new"


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference records as if measured once more, a thousandth slower."""
    from tests.test_check import pace

    copy = tmp_path_factory.mktemp("again") / "mini"
    shutil.copytree(REFERENCE, copy, ignore=shutil.ignore_patterns("samples", "telemetry.csv"))
    for folder in record.folders(copy):
        pace(folder, 1.001 * record.read(folder)["train_s"])
    return copy


def test_check_passes_where_nothing_is_slower(again: Path) -> None:
    done = call("check", "--baseline", REFERENCE, "--results", again, "--convergence")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert "Throughput, img/s" in done.stdout
    assert "Final mIoU, points" in done.stdout
    assert sum(line.startswith("0") for line in done.stdout.splitlines()) == 18
    assert done.stdout.splitlines()[-1].startswith("No regression was found: ")


def test_check_exits_with_3_where_a_rung_is_slower(place: Path) -> None:
    done = call("check", "--baseline", "old", "--results", slower(place))
    assert done.exit_code == 3
    [row] = [line.split() for line in done.stdout.splitlines() if line.startswith("03")]
    assert "SLOWER" in row
    assert done.stderr.splitlines()[0] == "Error: 1 of 2 rungs is slower than the baseline: 03-cosine"
    assert done.stderr.splitlines()[1].startswith("Hint: measure again")


@pytest.mark.parametrize("form", ["text", "markdown", "json", "github"])
def test_check_without_a_baseline_exits_with_4_and_says_so(form: str, place: Path) -> None:
    done = call("check", "--baseline", "nowhere", "--results", REFERENCE, "--format", form)
    assert done.exit_code == 4
    assert done.stderr.startswith("Error: nothing could be judged: there is no folder nowhere\nHint: ")
    assert "there is no folder nowhere" in done.stdout


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--strict"], 4)])
def test_strict_decides_what_a_doubt_is_worth(options: list[str], code: int, again: Path) -> None:
    done = call("check", "--baseline", REFERENCE, "--results", again, *options)
    assert "CANNOT TELL" in done.stdout
    assert done.exit_code == code


@pytest.mark.parametrize("text", ["20%", "0.2", " 20 % ", "2e-1"])
def test_the_tolerance_is_a_share_however_it_is_written(text: str, again: Path) -> None:
    done = call("check", "--baseline", REFERENCE, "--results", again, "--tolerance", text)
    assert "the whole interval below 0.8" in done.stdout


def test_the_tolerance_is_that_of_the_statistics_unless_said() -> None:
    from bench import stats

    [option] = [each for each in COMMANDS["segbench check"].params if each.name == "tolerance"]
    assert option.default == f"{100 * stats.TOLERANCE:g}%"


def test_the_json_of_a_check_is_one_object_with_the_exit_code(place: Path) -> None:
    done = call("check", "--baseline", "old", "--results", slower(place), "--format", "json")
    said = json.loads(done.stdout)
    assert said["exit_code"] == done.exit_code == 3
    assert [rung["verdict"] for rung in said["tables"]["images_per_s"]["rungs"]].count("slower") == 1


def test_github_gets_annotations_and_the_table_is_added_to_its_summary(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "summary").write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary"))
    done = call("check", "--baseline", "old", "--results", slower(place), "--format", "github")
    assert done.exit_code == 3
    assert all(line.startswith("::") for line in done.stdout.splitlines())
    text = (place / "summary").read_text()
    assert text.startswith("# before\n## segbench check\n")
    assert "| 03-cosine |" in text
    assert (
        "| 03-cosine |"
        in call("check", "--baseline", "old", "--results", "new", "--format", "markdown").stdout
    )


def test_a_summary_that_cannot_be_written_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place))
    done = call("check", "--baseline", REFERENCE, "--results", REFERENCE, "--format", "github")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: cannot write the summary {place}: ")


def test_check_against_hands_on_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import against

    asked: list[Any] = []

    def compare(ref: str, question: against.Question, watch: object, **options: Any) -> Any:
        asked.append((ref, [each.name for each in question.recipes], question.workload.name, options))
        raise BenchError("enough")

    monkeypatch.setattr(against, "compare", compare)
    call("check", "--against", "HEAD")
    call("check", "--against", "v1", "--recipe", "00,07", "--workload", "camvid", "--pairs", "9", "--strict")
    usual = {"pairs": against.PAIRS, "tolerance": 0.02, "strict": False}
    assert asked == [
        ("HEAD", ["00-mmseg-baseline"], "mini", usual),
        ("v1", ["00-mmseg-baseline", "07-no-sync-bn"], "camvid", {**usual, "pairs": 9, "strict": True}),
    ]


def test_check_needs_no_torch_and_nothing_else_that_is_slow(again: Path) -> None:
    code = (
        "import sys\n"
        "from bench import cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    arguments = ["check", "--baseline", str(REFERENCE), "--results", str(again), "--convergence"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "No regression was found" in done.stdout
    assert not set(done.stderr.split()) & {"torch", "torchvision", "pandas", "matplotlib"}


# ----------------------------------------------------------------------------------------------------- doctor


LINES = [
    doctor.Line("device", "ok", "cpu: abacus"),
    doctor.Line("clocks", "unknown", "not told"),
    doctor.Line("load", "warn", "somebody computes", "ask them to stop"),
]


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[doctor.Line]:
    """What the doctor finds next."""
    found = list(LINES)
    monkeypatch.setattr(doctor, "examine", lambda work, **options: list(found))
    monkeypatch.setattr(doctor, "look_for", lambda work, data, weights: [])
    return found


def test_doctor_prints_a_line_a_question_with_what_to_do(examined: list[doctor.Line]) -> None:
    done = call("doctor")
    assert done.exit_code == 0
    assert [line.split(maxsplit=1)[0] for line in done.stdout.splitlines()[2:6]] == [
        "ok",
        "unknown",
        "warn",
        "→",
    ]
    assert "→ ask them to stop" in done.stdout
    assert done.stdout.rstrip().endswith("It can train; its times are in doubt: 1 warning")
    examined[-1] = doctor.Line("weights", "warn", "v1 is not here", "the first run fetches it")
    assert call("doctor").stdout.rstrip().endswith("Nothing speaks against measuring here")


def test_a_line_that_fails_is_the_exit_code_and_the_hint(examined: list[doctor.Line]) -> None:
    examined.append(doctor.Line("data", "fail", "no pictures", "name them with --data"))
    done = call("doctor")
    assert done.exit_code == 1
    assert done.stderr == "Error: this machine cannot train that: data\nHint: name them with --data\n"


def test_doctor_writes_json_and_nothing_else_to_stdout(examined: list[doctor.Line]) -> None:
    done = call("doctor", "--json")
    assert json.loads(done.stdout)[2] == {
        "check": "load", "state": "warn", "found": "somebody computes", "advice": "ask them to stop",
    }  # fmt: skip
    examined.append(doctor.Line("data", "fail", "no pictures", "name them with --data"))
    done = call("doctor", "--json")
    assert (done.exit_code, json.loads(done.stdout)[-1]["state"]) == (1, "fail")


# ------------------------------------------------------------------------------------------------ the trainer


def test_the_fake_trainer_has_what_the_real_one_has() -> None:
    source = (ROOT / "bench" / "train.py").read_text()
    for name in ("train", "facts", "examine", "find_weights", "ready", "Interrupted"):
        assert hasattr(fake_train, name)
        assert name in source


# -------------------------------------------------------------------------------------------------- prepare


def prepared(monkeypatch: pytest.MonkeyPatch, *arguments: str, **known: Any) -> Result:
    """`segbench prepare` where nothing is left to do but to say what was done."""
    made = prepare.Prepared({"training": 20_210, "validation": 2_000}, **known)

    def make(source: Path | None, dest: Path, watch: Watch) -> prepare.Prepared:
        watch(f"writing {dest}", "files")(1, 1)
        return made

    monkeypatch.setattr(prepare, "ade20k", make)
    monkeypatch.setattr(prepare, "camvid", make)
    return call("prepare", *arguments)


def test_a_data_set_that_is_ready_is_named_with_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    done = prepared(monkeypatch, "camvid", "SegNet", "my data")
    assert done.stderr == "writing my data\n"
    assert done.stdout.splitlines() == [
        "my data is ready: camvid, 20,210 training and 2,000 validation pairs, verified",
        "CamVid is for personal and research use (CC BY-NC)",
        "Next: segbench run --workload camvid --data 'my data'",
    ]


def test_a_data_set_that_was_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    done = prepared(monkeypatch, "ade20k", "a.zip", "data", before=True)
    assert done.stdout.startswith("data was there already: ade20k, 20,210 training")


def test_a_fetched_archive_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    done = prepared(monkeypatch, "ade20k", "--download", "data", archive=Path("ADE.zip"))
    assert "The archive stays at ADE.zip" in done.stdout


def test_a_cache_is_made_used_and_looked_at_again(place: Path) -> None:
    made = call("prepare", "cache", "pictures", "my cache")
    assert made.stderr == "writing my cache, 0.0 GB\nchecksums\n"
    assert made.stdout.splitlines() == [
        "my cache is ready: the cache of pictures, 1 training and 1 validation pairs, verified",
        "Next: segbench run --workload NAME --data pictures --cache 'my cache'",
    ]
    assert train(place, "one", more=("--cache", "my cache")).exit_code == 0
    assert record.load(place / "results/local")["data_cache"].tolist() == [True]
    again = call("prepare", "cache", "pictures", "my cache")
    assert again.stdout.startswith("my cache was there already: the cache of pictures, 1 training")


def test_an_interrupted_prepare_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "camvid", make)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/segbench", "prepare", "camvid", "SegNet", "my data"])
    done = call("prepare", "camvid", "SegNet", "my data")
    assert done.exit_code == 130
    assert done.stderr.endswith(
        "What is done stays; this goes on with it:\n  segbench prepare camvid SegNet 'my data'\n"
    )


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([("interrupted", 2)], ". What was trained is saved; this goes on with it"),
        ([("finished", 4), ("interrupted", 0)], ". What else was trained is saved; this goes on with it"),
        ([("interrupted", 0)], " before anything was saved; this begins again"),
        ([("interrupted", None)], " before anything was saved; this begins again"),
        ([], " before anything was saved; this begins again"),
    ],
)
def test_an_interruption_says_what_it_left(outcomes: list[tuple[str, int | None]], words: str) -> None:
    made = [SimpleNamespace(status=status, record={"checkpoints": count}) for status, count in outcomes]
    assert cli._saved(made) == words  # type: ignore[arg-type]


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_before_there_is_a_run_to_stop_is_said_in_a_line(tmp_path: Path, number: int) -> None:
    code = (
        "import signal\nfrom bench import cli, server\n"
        f"server.start = lambda trainer: signal.raise_signal({int(number)})\ncli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--recipe", "00", "--seeds", "1"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # as in a terminal, wherever the tests run
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.split()) == (130, "", ["Interrupted."])


def test_what_a_shell_has_a_command_ignore_it_ignores(tmp_path: Path) -> None:
    code = (
        "import signal\nfrom bench import cli, server\n"
        "def start(trainer):\n    signal.raise_signal(signal.SIGINT)\n    raise SystemExit(7)\n"
        "server.start = start\ncli.main()\n"
    )
    for how, code_then in ((signal.SIG_IGN, 7), (signal.SIG_DFL, 130)):
        done = subprocess.run(
            [sys.executable, "-c", code, "run", "--recipe", "00", "--seeds", "1"], cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            preexec_fn=lambda how=how: signal.signal(signal.SIGINT, how),
        )  # fmt: skip
        assert done.returncode == code_then, done.stderr


def test_nohup_is_heard() -> None:
    code = "import signal\nfrom bench import STOPS\nprint(signal.SIGHUP in STOPS)\n"
    for how, heard in (("SIG_IGN", "False"), ("SIG_DFL", "True")):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
            preexec_fn=lambda how=how: signal.signal(signal.SIGHUP, getattr(signal, how)),
        )  # fmt: skip
        assert done.stdout.strip() == heard
