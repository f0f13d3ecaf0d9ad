"""Two processes that take steps in turn; here they are small scripts, and say what a step took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import BenchError, assets, duel, probe
from bench.duel import Pair, Task
from bench.revision import Revision
from tests import fake_revision, small

NOTE = 'open(ROOT.parent / "order", "a").write(ROOT.name[0])'


def revision(root: Path, **parts: object) -> Revision:
    return Revision(f"revision {root.name}", "c0ffee", fake_revision.write(root, **parts))


def task(**known: Any) -> Task:
    asked = {"recipe": "00", "workload": "mini", "data": None, "weights": None, "device": "cpu"}
    return Task(**{**asked, **known})


def test_turns_are_single_steps_in_the_order_a_b_b_a(tmp_path: Path) -> None:
    old, new = revision(tmp_path / "old", step=NOTE), revision(tmp_path / "new", step=NOTE)
    duel.measure(old, new, task(), 0)
    duel.measure(old, new, task(), 1)
    turns = duel.WARM_UP + duel.MOST
    assert (tmp_path / "order").read_text() == ("onno" * turns)[: 2 * turns] + ("noon" * turns)[: 2 * turns]


def test_the_steps_of_the_warm_up_are_not_counted(tmp_path: Path) -> None:
    old = revision(tmp_path / "old", answer='{"step": float(taken)}')
    new = revision(tmp_path / "new", answer='{"step": 10.0 * taken}')
    pair = duel.measure(old, new, task(), 0)
    counted = [duel.WARM_UP + 1.0 + turn for turn in range(duel.FEWEST)]
    assert [turn["step"] for turn in pair.old_turns] == counted
    middle = (counted[0] + counted[-1]) / 2
    assert pair.medians("step") == (middle, 10 * middle)


@pytest.mark.parametrize(("seconds", "turns"), [(0.001, 60), (0.05, 40), (0.1, 20), (3.0, 12)])
def test_a_pair_takes_as_many_turns_as_fit_into_its_time(tmp_path: Path, seconds: float, turns: int) -> None:
    answer = f'{{"step": {seconds} * (10 if taken == 1 else 1)}}'  # the first of the warm-up is slow
    old, new = (revision(tmp_path / name, answer=answer) for name in ("old", "new"))
    pair = duel.measure(old, new, task(), 0)
    assert len(pair.old_turns) == len(pair.new_turns) == turns


def test_each_pair_has_a_seed_of_its_own_and_each_core_its_turn(tmp_path: Path) -> None:
    note = 'open(ROOT.parent / "asked", "a").write(json.dumps(asked) + "\\n")'
    old, new = revision(tmp_path / "old", setup=note), revision(tmp_path / "new")
    for number in range(5):
        duel.measure(old, new, task(cores=(3, 7), data="/pictures"), number)
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert [each["core"] for each in asked] == [3, 3, 7, 7, 3]
    assert [each["seed"] for each in asked] == [0, 1, 2, 3, 4]
    assert asked[0] == {
        "recipe": "00", "workload": "mini", "data": "/pictures", "weights": None, "device": "cpu",
        "core": 3, "seed": 0,
    }  # fmt: skip


def test_a_thread_that_waits_sleeps_there_is_one_and_the_revision_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    told = "{name: os.environ[name] for name in ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'PYTHONPATH')}"
    old = revision(tmp_path / "old", recipe=told)
    pair = duel.measure(old, revision(tmp_path / "new"), task(), 0)
    assert pair.old["recipe"] == {
        "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path / 'old'}:/elsewhere",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"setup": "raise SystemExit('no luck')"}, "no luck"),
        (
            {"setup": "os.kill(os.getpid(), signal.SIGKILL)"},
            "was killed by SIGKILL, perhaps for",
        ),
        ({"step": "taken > 3 and os.kill(os.getpid(), signal.SIGSEGV)"}, "was killed by SIGSEGV"),
        ({"step": "taken > 3 and sys.exit(7)"}, "its probe ended with exit code 7"),
        ({"step": "taken > 3 and 1 / 0"}, "ZeroDivisionError: division by zero"),
        ({"protocol": 2}, "its probe speaks protocol 2, this one 1"),
        ({"protocol": None}, "its probe speaks protocol None, this one 1"),
        (
            {"setup": 'ROOT = Path("/elsewhere")'},
            "it holds no package bench; /elsewhere/bench answered",
        ),
        ({"setup": 'print("hello")'}, "its probe says 'hello'"),
        ({"setup": 'print("[1]")'}, r"its probe says '\[1\]'"),
        ({"answer": "{}"}, r"its probe says that a step took \{\}"),
        ({"answer": '{"step": 0.0}'}, r"says that a step took \{'step': 0.0\}"),
        ({"answer": '{"step": None}'}, r"says that a step took \{'step': None\}"),
        ({"answer": '{"error": "no such recipe"}'}, "no such recipe"),
    ],
)
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_side_that_cannot_be_measured_is_named_and_nothing_is_judged(
    tmp_path: Path, side: str, parts: dict[str, object], said: str
) -> None:
    old, new = (revision(tmp_path / name, **(parts if name == side else {})) for name in ("old", "new"))
    with pytest.raises(BenchError, match=f"^revision {side} cannot be measured: .*{said}") as caught:
        duel.measure(old, new, task(), 0)
    assert caught.value.code == 4


def test_the_hint_of_a_revision_is_handed_on(tmp_path: Path) -> None:
    answer = '{"error": "there is no recipe 99", "hint": "it has 00"}'
    with pytest.raises(BenchError) as caught:
        duel.measure(revision(tmp_path / "old", answer=answer), revision(tmp_path / "new"), task(), 0)
    assert caught.value.hint == "it has 00"


def test_a_side_that_says_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duel, "PATIENCE_S", 0.0)
    with pytest.raises(BenchError, match="its probe has said nothing for 0 s"):
        duel.measure(revision(tmp_path / "old"), revision(tmp_path / "new"), task(), 0)


def test_no_process_is_left_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = duel.subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(duel.subprocess, "Popen", start)
    monkeypatch.setattr(duel.Probe, "take_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        duel.measure(revision(tmp_path / "old"), revision(tmp_path / "new"), task(), 0)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def interrupt(self: object) -> None:
    raise KeyboardInterrupt


def test_driver_and_probe_speak_one_language() -> None:
    assert duel.PROTOCOL == probe.PROTOCOL


@pytest.mark.parametrize("has_probe", [True, False])
def test_a_revision_with_or_without_a_probe_of_its_own_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_probe: bool
) -> None:
    """The real thing: two trainings of a small workload; one lies elsewhere, as an older revision does."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    small.job(tmp_path / "job", small.data(tmp_path / "cache"))  # writes the files of recipe and workload
    root = tmp_path / "older"
    (root / "bench").mkdir(parents=True)
    for path in assets.PACKAGE.iterdir():
        if path.name not in ("probe.py", "__pycache__"):
            (root / "bench" / path.name).symlink_to(path)
    (root / "recipes").symlink_to(assets.folder("recipes"))
    if has_probe:
        text = (assets.PACKAGE / "probe.py").read_text()
        (root / "bench" / "probe.py").write_text(text + "\n# its own\n")
    old, new = Revision("older", "c0ffee", root), Revision("this", "c0ffee", assets.PACKAGE.parent)
    files = str(tmp_path / "job" / "small-recipe.toml"), str(tmp_path / "job" / "small.toml")
    pair = duel.measure(old, new, task(recipe=files[0], workload=files[1]), 0)
    assert isinstance(pair, Pair)
    assert duel.FEWEST <= len(pair.old_turns) == len(pair.new_turns) <= duel.MOST
    assert pair.old["batch_size"] == 8
    assert (pair.old["recipe"], pair.old["workload"]) == (pair.new["recipe"], pair.new["workload"])
    assert pair.new["workload"]["train"]["data_workers"] == 0
    assert (pair.old["probe"] == pair.new["probe"]) is not has_probe
