"""One run on two devices, through the runner: its processes, what becomes of it when one of them fails."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bench import BenchError, prepare, progress, record, runner, train
from bench.mailbox import Mailbox
from bench.progress import Progress
from bench.runner import Job
from bench.seat import Seat
from tests import small
from tests.fake_data import Watcher as Bars
from tests.test_runner import Watcher

LONG = 40  # epochs: two thirds are left when the first evaluation is told, which always is

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[runner.Run]]:
    """Plans of the small workload on two devices."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))

    def make(*parents: str, devices: int = 2, epochs: int | None = None) -> list[runner.Run]:
        changes = {"workload": f"[train]\nepochs = {epochs}\n"} if epochs else {}
        jobs = [small.job(tmp_path / parent, tmp_path, parent, **changes) for parent in parents]
        recipes = [replace(job.recipe, name=parent) for job, parent in zip(jobs, parents, strict=True)]
        return runner.plan(
            recipes,
            jobs[0].workload,
            1,
            tmp_path / f"on-{devices}",
            seat=Seat(devices=devices, local_devices=devices),
        )

    return make


def trainers(folder: Path) -> list[psutil.Process]:
    """The processes whose log lies in `folder`, in the order of their beginning."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(file.path == str(folder / "log.txt") for file in child.open_files()):
                found.append(child)
        except psutil.Error:
            continue
    return sorted(found, key=lambda child: (child.create_time(), child.pid))


def test_a_run_on_two_devices_is_recorded_once_and_scores_as_on_one(
    plan: Callable[..., list[runner.Run]],
) -> None:
    parents = ("00-mmseg-baseline", "07-no-sync-bn")
    runs = {devices: runner.run(plan(*parents, devices=devices), Watcher()).outcomes for devices in (1, 2)}
    for alone, shared in zip(runs[1], runs[2], strict=True):
        assert (alone.status, shared.status) == ("finished", "finished")
        one, two = alone.record or {}, shared.record or {}
        assert (one["device_count"], two["device_count"]) == (1, 2)
        assert two["final_loss"] == pytest.approx(one["final_loss"], abs=0.05)
        assert two["warnings"] == [name for name in two["warnings"] if name in record.WARNINGS]
        for name in ("steps_done", "val_images", "flops_per_image", "parameters"):
            assert one[name] == two[name]
        counts = [
            sum(int(cell) for row in (each.job.folder / "confusion.csv").read_text().split()[1:]
                for cell in row.split(",")[1:])
            for each in (alone, shared)
        ]  # fmt: skip
        assert counts[0] == counts[1]  # each picture once


def test_a_device_that_is_killed_ends_the_run_and_not_the_matrix(
    plan: Callable[..., list[runner.Run]],
) -> None:
    parents = ("00-mmseg-baseline", "07-no-sync-bn")
    runs, killed = plan(*parents, epochs=LONG), []

    def kill(news: progress.Progress) -> None:
        if news.phase == "checkpoint" and not killed:
            killed.append(trainers(runs[0].job.folder)[1])
            killed[0].kill()

    began = time.monotonic()
    first, second = runner.run(runs, Watcher(kill)).outcomes
    assert time.monotonic() - began < 60
    assert (first.status, second.status) == ("failed", "finished")
    assert first.error == "device 1: killed by SIGKILL, perhaps for want of memory"
    assert record.read(first.job.folder)["error"] == first.error
    [again, _] = runner.run(plan(*parents, epochs=LONG), Watcher()).outcomes
    assert again.status == "finished"
    assert (again.record or {})["resumed"] == 1


def test_a_stop_saves_on_all_devices_at_one_step_and_the_run_goes_on(
    plan: Callable[..., list[runner.Run]],
) -> None:
    asked: list[int] = []

    def stop(news: progress.Progress) -> None:
        if news.phase == "checkpoint" and not asked:  # a second one would kill it
            asked.append(news.step)
            os.kill(os.getpid(), signal.SIGINT)

    stopped = runner.run(plan("00-mmseg-baseline", epochs=LONG), Watcher(stop), patience_s=30)
    assert stopped.stopped
    assert [each.status for each in stopped.outcomes] == ["interrupted"]
    run = stopped.outcomes[0].record or {}
    assert run["steps_done"] >= asked[0]
    [whole] = runner.run(plan("00-mmseg-baseline", epochs=LONG), Watcher()).outcomes
    assert (whole.status, (whole.record or {})["resumed"]) == ("finished", 1)


def member(job: Job, stop: bool, news: Any, moment: tuple[str, int]) -> None:
    def listen(progress: Progress) -> None:
        if stop and (progress.phase, progress.step) == moment:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train.train(job, listen)
        news.put(("finished", job.seat.rank))
    except train.Interrupted:
        news.put(("interrupted", job.seat.rank))
    except BenchError as error:
        news.put((error.message, job.seat.rank))


def both(
    jobs: list[Job], stopped: int | None = None, moment: tuple[str, int] = ("eval", 16)
) -> list[tuple[str, int]]:
    """How the two devices of a run end; `stopped`: the one that is told to stop, in the second evaluation or
    at another phase and step."""
    fork = multiprocessing.get_context("fork")
    box, news = Mailbox(fork, 2), fork.Queue()
    processes = [
        fork.Process(
            target=member,
            args=(replace(job, seat=Seat(rank, 2, rank, 2, mailbox=box)), rank == stopped, news, moment),
        )
        for rank, job in enumerate(jobs)
    ]
    for each in processes:
        each.start()
    ends = sorted(news.get(timeout=60) for _ in processes)
    for each in processes:
        each.join()
    return ends


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_in_an_evaluation_ends_it_on_all_devices_and_it_is_made_anew(
    tmp_path: Path, rank: int
) -> None:
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    pictures = small.data(tmp_path / "pictures")
    whole, broken = (small.job(tmp_path / name, pictures) for name in ("whole", "broken"))
    assert both([whole] * 2) == [("finished", 0), ("finished", 1)]
    assert both([broken] * 2, stopped=rank) == [("interrupted", 0), ("interrupted", 1)]
    run = record.read(broken.folder)
    assert (run["status"], run["steps_done"]) == ("interrupted", 16)
    assert [row["step"] for row in record.read_evals(broken.folder)] == [8]
    assert both([broken] * 2) == [("finished", 0), ("finished", 1)]
    assert [each["per_class_iou"] for each in record.read_evals(broken.folder)] == [
        each["per_class_iou"] for each in record.read_evals(whole.folder)
    ]
    assert record.read(broken.folder)["final_loss"] == record.read(whole.folder)["final_loss"]


def test_devices_that_do_not_train_the_same_find_out_before_they_begin(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pictures = small.data(tmp_path / "pictures")
    one, other = (small.job(tmp_path / str(seed), pictures, seed=seed) for seed in range(2))
    newer = replace(one, facts={**one.facts, "git_commit": "f00"})
    commit = f"git_commit, f00, than device 0, {one.facts['git_commit']}"
    prepare.cache(pictures, tmp_path / "cache", Bars())
    cached = replace(one, cache=tmp_path / "cache"), "data_cache, True, than device 0, False"
    for odd, named in ((other, "seed, 1, than device 0, 0"), (newer, commit), cached):
        said = f"device 1 has another {named}"
        assert both([one, odd]) == [(said, 0), (said, 1)]
        assert record.read(one.folder)["error"] == said


@pytest.mark.parametrize("rank", [0, 1])
def test_where_a_step_takes_long_a_stop_waits_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(train, "ASK_S", 0.0)
    monkeypatch.setattr(train, "TELL_S", 0.0)
    job = small.job(tmp_path / "run", small.data(tmp_path / "pictures"))
    assert both([job] * 2, rank, ("train", 9)) == [("interrupted", 0), ("interrupted", 1)]
    assert record.read(job.folder)["steps_done"] == 10


@pytest.mark.parametrize("devices", [3, 5, 16])
def test_devices_that_do_not_divide_the_replicas_are_refused(
    plan: Callable[..., list[runner.Run]], devices: int
) -> None:
    with pytest.raises(BenchError, match=f"--devices {devices} do not divide the 2 replicas") as caught:
        plan("00-mmseg-baseline", devices=devices)
    assert caught.value.hint == "use --devices 1 or 2"


def launch_twice(folder: Path, *options: list[str]) -> list[subprocess.Popen[str]]:
    """Two launchers on this machine, a process each, that know nothing of each other but an address; what
    each adds to the command."""
    small.job(folder, folder)  # writes workload and recipe
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "test"]
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--local-addr", "localhost"]
    what = ["--workload", "small.toml", "--recipe", "small-recipe.toml", "--seeds", "2", "--results", "out"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "SEGBENCH_CACHE": str(folder / "cache"),
    }
    return [
        subprocess.Popen(
            [sys.executable, *launch, *meet, "-m", "bench", "run", *what, *more],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more in options
    ]


def test_two_machines_share_a_run_through_torchrun(tmp_path: Path) -> None:
    launchers = launch_twice(tmp_path, [], [])
    said = [launcher.communicate(timeout=120) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert sum("Next: segbench report" in out for out, _ in said) == 1  # one process tells
    for seed in range(2):
        run = record.read(record.run_folder(tmp_path / "out", "small", "small-recipe", seed))
        assert (run["status"], run["device_count"], run["steps_done"]) == ("finished", 2, 24)


def test_a_machine_that_cannot_begin_tells_the_others_why(tmp_path: Path) -> None:
    launchers = launch_twice(tmp_path, [], ["--weights", "nowhere"])
    said = [launcher.communicate(timeout=120) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [1, 1], said
    assert "travel with segbench" in said[1][1]
    # one that could, whichever is the first device, began each run
    logs = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("log.txt")]
    assert logs
    for log in logs:
        assert re.search(r"^Error: device \d: the weights of .* travel with segbench$", log, re.MULTILINE), (
            log
        )
