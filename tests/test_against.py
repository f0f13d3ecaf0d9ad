"""A checkout against one of its commits, from worktree to verdict, on revisions that need no torch."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from bench import STOPS, against, assets, bulletin, matrix, recipe, revision, stats, workload
from bench.against import Question
from bench.check import Comparison
from bench.duel import Pair
from tests import fake_revision, small
from tests.fake_revision import git

BASE = "00-mmseg-baseline"
ROOT = assets.PACKAGE.parent
SLOW = '{"step": 1.2 * (0.01 + 0.0001 * asked["seed"]) + 0.00001 * (asked["seed"] % 3)}'
SPREAD = '{"step": 0.01 + 0.0001 * asked["seed"] + 0.00001 * (asked["seed"] % 3)}'


def question(**known: Any) -> Question:
    return Question(**{"recipes": [recipe.load(BASE)], "workload": workload.load("mini"), **known})


# The verdict


def pairs(ratios: Sequence[float], parts: Sequence[str] = ("step",), old: float = 0.1) -> list[Pair]:
    """Pairs whose new side is so many times as fast in every part."""
    side = {"batch_size": 16}
    found = []
    for ratio in ratios:
        slow, fast = dict.fromkeys(parts, old), dict.fromkeys(parts, old / ratio)
        found.append(Pair(side, side, (slow,) * 3, (fast,) * 3))
    return found


def test_a_row_has_images_a_second_of_both_sides_a_pair_each() -> None:
    family = against.judge("mini", [(BASE, pairs([0.8, 0.81, 0.79, 0.8]))], 0.02)
    [rung] = family.rungs
    assert (rung.workload, rung.recipe, rung.where) == ("mini", BASE, "")
    assert rung.old == pytest.approx((160.0,) * 4)
    assert rung.new == pytest.approx((128.0, 129.6, 126.4, 128.0))
    assert rung.contrast.verdict == "slower"
    assert rung.contrast.delta == pytest.approx(0.8, rel=1e-3)
    assert family.paired
    assert family.spread.freedom == 3


def test_parts_that_are_timed_apart_have_a_row_each() -> None:
    family = against.judge("mini", [(BASE, pairs([1.0, 1.01, 0.99, 1.0], ["step", "batch"]))], 0.02)
    assert [rung.where for rung in family.rungs] == ["step", "batch"]


def test_the_chance_of_a_false_alarm_is_shared_by_the_rows() -> None:
    ratios = [1.0, 1.01, 0.99, 1.0]
    alone = against.judge("mini", [(BASE, pairs(ratios))], 0.02).rungs[0].contrast
    shared = against.judge("mini", [(BASE, pairs(ratios)), ("01", pairs(ratios))], 0.02).rungs[0].contrast
    assert alone.low == pytest.approx(stats.paired(ratios, 0.02, against.ALPHA).low)
    assert shared.low == pytest.approx(stats.paired(ratios, 0.02, against.ALPHA / 2).low)
    assert shared.low < alone.low


def test_false_alarms_at_the_edge_of_the_tolerance_are_one_in_a_hundred_and_rarer_within() -> None:
    """Seeded draws; ten thousand checks have a standard error of 0.1 points."""
    random = np.random.default_rng(11)
    noise = 0.012 * random.standard_normal((10_000, against.PAIRS))
    at_the_edge = called(0.98 * np.exp(noise))
    assert 0.007 < at_the_edge < 0.013
    assert called(np.exp(noise)) == 0


def test_a_noise_with_rare_large_outliers_gives_no_more_false_alarms() -> None:
    """Student's t with two degrees of freedom; its variance is not even finite."""
    random = np.random.default_rng(12)
    noise = 0.006 * random.standard_t(2, (10_000, against.PAIRS))
    assert called(0.98 * np.exp(noise)) < 0.013


def test_a_slowdown_of_5_percent_is_found_where_ratios_spread_by_2_percent() -> None:
    random = np.random.default_rng(13)
    noise = 0.02 * random.standard_normal((4_000, against.PAIRS))
    assert called(np.exp(noise) / 1.05) > 0.9
    assert called(np.exp(noise) / 1.10) > 0.999


def called(ratios: np.ndarray) -> float:
    """Share of checks that say slower."""
    found = [stats.paired(row.tolist(), 0.02, against.ALPHA).verdict for row in ratios]
    return found.count("slower") / len(found)


SAMPLES = sorted((ROOT / "benchmarks" / "against").glob("*.csv"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_real_pairs_of_a_checkout_and_its_copy_are_slower_only_where_it_was_planted(path: Path) -> None:
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    for planted in {row["planted_pct"] for row in rows}:
        chosen = [row for row in rows if row["planted_pct"] == planted][: 2 * against.PAIRS]
        old, new = ([median(times(row)) for row in chosen if row["side"] == side] for side in ("old", "new"))
        ratios = [slow / fast for slow, fast in zip(old, new, strict=True)]
        assert len(ratios) == against.PAIRS
        verdict = stats.paired(ratios, 0.02, against.ALPHA).verdict
        assert (verdict == "slower") is (planted != "0")


def times(row: dict[str, str]) -> list[float]:
    return [float(value) for name, value in row.items() if name.startswith("ms_") and value]


def test_the_page_about_the_samples_has_all_of_them() -> None:
    page = (ROOT / "benchmarks" / "against.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| (\w+-\d+) \|", page, re.MULTILINE)) == {path.stem for path in SAMPLES}
    assert len(SAMPLES) >= 4


# The whole way


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty temporary folder; its path is short, since sockets lie in it."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def checkout(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository whose only commit is as fast as can be; `compare` takes it for its own checkout, and torch
    is not asked about the machine. Nothing may be left over."""
    fake_revision.without_git_variables(monkeypatch)
    root = fake_revision.write(tmp_path / "checkout", answer=SPREAD)
    fake_revision.commit(root)
    real = revision.here
    monkeypatch.setattr(revision, "here", lambda: real(root / "bench"))
    monkeypatch.setattr(matrix, "survey", lambda *_, **options: {"device": "cpu"})
    monkeypatch.setattr(against.scenes, "ensure", lambda *_: None)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield root
    assert list(temporary.iterdir()) == []
    assert len(git(root, "worktree", "list").splitlines()) == 1


def compare(ref: str = "HEAD", **known: Any) -> Comparison:
    return against.compare(ref, question(), watch, **{"pairs": 4, **known})


def watch(what: str, unit: str) -> Any:
    return lambda done, total: None


def test_a_commit_against_itself_is_the_same_and_says_so(checkout: Path) -> None:
    luck = '{"step": 0.01 + 0.00001 * ((asked["seed"] + ("checkout" in str(ROOT))) % 3)}'  # of the processes
    fake_revision.write(checkout, answer=luck)
    fake_revision.commit(checkout)
    found = compare()
    short = git(checkout, "rev-parse", "HEAD")[:7]
    assert found.code == 0
    assert (found.baseline, found.results) == (f"HEAD ({short})", f"the working tree ({short})")
    assert [rung.contrast.verdict for rung in found.families[0].rungs] == ["same"]
    assert "the same commit" in found.notes[1]


def test_clocks_that_are_too_coarse_to_show_a_spread_are_nothing_to_judge_by(checkout: Path) -> None:
    found = compare()
    assert found.code == 4
    assert bulletin.conclude(found) == (
        f"nothing could be judged: {BASE}: no spread between pairs",
        "take more pairs: --pairs N",
    )


def test_a_slower_working_tree_is_a_regression(checkout: Path) -> None:
    fake_revision.write(checkout, answer=SLOW)
    found = compare()
    assert found.code == 3
    [rung] = found.families[0].rungs
    assert rung.contrast.verdict == "slower"
    assert rung.contrast.delta == pytest.approx(1 / 1.2, rel=0.01)
    assert "with changes" in found.notes[0]
    assert not any("the same commit" in note for note in found.notes)


def test_a_faster_working_tree_is_none(checkout: Path) -> None:
    fake_revision.write(checkout, answer=SLOW)
    fake_revision.commit(checkout)
    fake_revision.write(checkout, answer=SPREAD)
    found = compare()
    assert (found.code, found.families[0].rungs[0].contrast.verdict) == (0, "faster")


def test_sides_that_train_something_else_are_not_compared(checkout: Path) -> None:
    fake_revision.write(checkout, recipe='{"optim": {"batch_size": 32}}')
    assert_nothing_was_judged(compare(), "trains something else: optim.batch_size is 16 there and 32 here")


def test_what_one_side_alone_states_is_a_doubt_and_no_obstacle(checkout: Path) -> None:
    fake_revision.write(
        checkout, answer=SLOW, recipe='{"optim": {"batch_size": 16}, "system": {"compile": False}}'
    )
    [*_, note] = compare().notes
    assert note == "Stated by one side alone: system.compile = false (results)."


def test_sides_that_differ_in_torch_are_told(checkout: Path) -> None:
    text = (checkout / "bench" / "probe.py").read_text()
    (checkout / "bench" / "probe.py").write_text(text.replace('"torch": "2.0"', '"torch": "2.1"'))
    assert "The sides differ in torch: 2.0 and 2.1." in compare().notes


def test_the_first_error_of_a_side_ends_it_without_a_verdict(checkout: Path) -> None:
    fake_revision.write(checkout, step="taken > 3 and os.kill(os.getpid(), signal.SIGKILL)")
    assert_nothing_was_judged(compare(), "with changes) cannot be measured: its probe was killed by SIGKILL")


def test_an_unknown_commit_is_nothing_to_compare_with(checkout: Path) -> None:
    found = compare("nowhere")
    assert_nothing_was_judged(found, f"{checkout} has no commit 'nowhere'")
    assert "git fetch" in bulletin.conclude(found)[1]


def assert_nothing_was_judged(found: Comparison, why: str) -> None:
    """In every form, and with the exit code that says so."""
    assert found.code == 4
    assert bulletin.conclude(found)[0].startswith("nothing could be judged: ")
    assert bulletin.conclude(found)[1]
    document = json.loads(bulletin.to_json(found))
    assert why in document["conclusion"]
    assert document["tables"]["images_per_s"]["rungs"] == []
    for text in (bulletin.markdown(found), bulletin.annotate(found), *bulletin.remarks(found)):
        assert why in text


def test_missing_data_is_nothing_to_judge_by(checkout: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.undo()
    fake_revision.without_git_variables(monkeypatch)
    real = revision.here
    monkeypatch.setattr(revision, "here", lambda: real(checkout / "bench"))
    for given in ({}, {"data": tmp_path / "nowhere"}):
        asked = question(workload=workload.load("camvid"), **given)
        found = against.compare("HEAD", asked, watch)
        assert_nothing_was_judged(
            found, "there is no folder" if given else "is trained on a folder of pictures"
        )
        assert "--data" in bulletin.conclude(found)[1]


def test_progress_goes_from_nothing_to_all_pairs(checkout: Path) -> None:
    told: list[object] = []

    def listen(what: str, unit: str) -> Any:
        told.append((what, unit))
        return lambda done, total: told.append((done, total))

    against.compare("HEAD", question(), listen, pairs=3)
    assert told == [(f"{BASE}, turn by turn", "pairs"), (0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_shipped_file_is_named_and_another_is_pointed_at(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f'extends = "{BASE}"\ntitle = "own"\n[optim]\nlr = 0.5\n')
    data = tmp_path / "pictures"
    task = question(data=data).task(recipe.load("00"), "cpu")
    assert (task.recipe, task.workload, task.data) == (BASE, "mini", str(data))
    assert task.cores
    task = question().task(recipe.load(own), "cuda")
    assert (task.recipe, task.cores) == (str(own), ())


# The command itself, and being stopped


@pytest.fixture
def command(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command in a copy of the package whose probe needs no torch; what it draws is below `tmp_path`,
    what it leaves in `temporary`."""
    fake_revision.without_git_variables(monkeypatch)
    root = tmp_path / "checkout"
    for name, source in (("bench", assets.PACKAGE), ("recipes", assets.folder("recipes"))):
        shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    fake_revision.write(root, answer=SPREAD)
    fake_revision.commit(root)
    (tmp_path / "small.toml").write_text(small.WORKLOAD)
    monkeypatch.setenv("TMPDIR", str(temporary))
    places = {"SEGBENCH_CACHE": "cache", "PYTHONPATH": "checkout", "TORCHINDUCTOR_CACHE_DIR": "torch"}
    for name, value in places.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.chdir(root)
    small_one = str(tmp_path / "small.toml")
    return [sys.executable, "-m", "bench", "check", "--against", "HEAD", "--workload", small_one]


def test_the_command_tells_progress_on_stderr_and_the_result_on_stdout(
    command: list[str], temporary: Path, tmp_path: Path
) -> None:
    fake_revision.write(tmp_path / "checkout", answer=SLOW)
    done = subprocess.run([*command, "--pairs", "4"], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("Throughput, img/s\n")
    assert "SLOWER" in done.stdout
    assert "from 4 pairs of processes that took steps in turn" in done.stdout
    drawing, turns, error, hint = done.stderr.splitlines()
    assert (drawing, turns) == ("drawing scenes, once", f"{BASE}, turn by turn")
    assert error == f"Error: 1 of 1 rungs is slower than the baseline: {BASE}"
    assert hint.startswith("Hint: ")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_in_the_middle_leaves_nothing_behind(
    command: list[str], temporary: Path, tmp_path: Path, number: int
) -> None:
    root, ready = tmp_path / "checkout", tmp_path / "ready"
    fake_revision.write(root, step=f"taken == 9 and open({str(ready)!r}, 'w').write(str(os.getpid()))")
    with subprocess.Popen(
        [*command, "--pairs", "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        while not (ready.exists() and ready.read_text()):
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.02)
        probe = int(ready.read_text())
        driver.send_signal(number)
        out, err = driver.communicate()
    assert (driver.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "Interrupted."
    with pytest.raises(ProcessLookupError):
        os.kill(probe, 0)
    assert list(temporary.iterdir()) == []
    assert len(git(root, "worktree", "list").splitlines()) == 1
    assert not list((root / ".git").glob("worktrees/*"))
