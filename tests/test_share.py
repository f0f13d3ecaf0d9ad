"""One run on two devices, through the runner: its processes, what becomes of it when one of them fails."""

from __future__ import annotations

import csv
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest
import torch

from bench import (
    BenchError,
    checkpoint,
    device,
    machine,
    machines,
    matrix,
    prepare,
    progress,
    record,
    runner,
    train,
    training,
)
from bench.mailbox import Mailbox
from bench.matrix import Job
from bench.progress import Progress
from bench.seat import Seat
from tests import small
from tests.fake_data import Watcher as Bars
from tests.fake_matrix import Watcher
from tests.fake_nvml import Card, FakeNvml, Time

# Few steps, since those of devices that share their cores with other tests take long. Of the second most is
# left when the first evaluation is told.
SHORT = "[train]\nepochs = 3\n"
LONG = "[train]\nepochs = 10\n[evaluation]\nevaluations = 20\n"

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(autouse=True, scope="module")
def _own_server() -> None:
    """One that has imported torch: that of tests with a trainer without it would have every process do so."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[matrix.Run]]:
    """Plans of the small workload on two devices."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))

    def make(*parents: str, devices: int = 2, workload: str = SHORT) -> list[matrix.Run]:
        jobs = [small.job(tmp_path / parent, tmp_path, parent, workload=workload) for parent in parents]
        recipes = [replace(job.recipe, name=parent) for job, parent in zip(jobs, parents, strict=True)]
        return matrix.plan(
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
    plan: Callable[..., list[matrix.Run]],
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
    plan: Callable[..., list[matrix.Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PEERS_S", 1.0)  # the other one waits in vain, however long it may
    parents = ("00-mmseg-baseline", "07-no-sync-bn")
    runs, killed = plan(*parents, workload=LONG), []

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
    [again, _] = runner.run(plan(*parents, workload=LONG), Watcher()).outcomes
    assert again.status == "finished"
    assert (again.record or {})["resumed"] == 1


def test_a_stop_saves_on_all_devices_at_one_step_and_the_run_goes_on(
    plan: Callable[..., list[matrix.Run]],
) -> None:
    asked: list[int] = []

    def stop(news: progress.Progress) -> None:
        if news.phase == "checkpoint" and not asked:  # a second one would kill it
            asked.append(news.step)
            os.kill(os.getpid(), signal.SIGINT)

    stopped = runner.run(plan("00-mmseg-baseline", workload=LONG), Watcher(stop), patience_s=30)
    assert stopped.stopped
    assert [each.status for each in stopped.outcomes] == ["interrupted"]
    run = stopped.outcomes[0].record or {}
    assert run["steps_done"] >= asked[0]
    [whole] = runner.run(plan("00-mmseg-baseline", workload=LONG), Watcher()).outcomes
    assert (whole.status, (whole.record or {})["resumed"]) == ("finished", 1)


def member(job: Job, strike: int, news: Any, moment: tuple[str, int], card: Card | None) -> None:
    """Train `job` on one device, which gets the signal `strike`, if any, at a phase and step."""
    if card is not None:
        _be_machine(job.seat.rank, card)

    def listen(progress: Progress) -> None:
        if strike and (progress.phase, progress.step) == moment:
            os.kill(os.getpid(), strike)

    try:
        train.train(job, listen)
        news.put(("finished", job.seat.rank))
    except train.Interrupted:
        news.put(("interrupted", job.seat.rank))
    except BenchError as error:
        news.put((error.message, job.seat.rank))
    except RuntimeError:  # torch's, where another device is gone
        news.put(("left alone", job.seat.rank))


def _be_machine(number: int, card: Card) -> None:
    """Have this process, which ends soon, see a machine with one GPU, which draws energy with each call."""
    world = FakeNvml(Time(), {"GPU-0": card})
    refused = ["nvmlGpmQueryDeviceSupport", "nvmlDeviceGetSamples"]  # they want time to pass
    if number:
        refused += [f"nvmlDeviceGetCurrentClocks{name}Reasons" for name in ("Event", "Throttle")]
    world.refuse = dict.fromkeys(refused, pynvml.NVML_ERROR_NOT_SUPPORTED)

    def draw() -> None:
        card.energy_mj += 1000 * card.watts

    world.on_call = draw
    sys.modules["pynvml"] = world
    device.uuids = lambda *_: ["GPU-0"]
    platform.node = lambda: f"node-{number}"


def both(
    jobs: list[Job],
    struck: int | None = None,
    moment: tuple[str, int] = ("eval", 16),
    strike: int = signal.SIGTERM,
    cards: tuple[Card, Card] | None = None,
) -> list[tuple[str, int]]:
    """How the two devices of a run end, but for one that is killed; `struck`: the one that gets a signal, in
    the second evaluation or at another phase and step. `cards`: each is on a machine of its own, with one."""
    fork = multiprocessing.get_context("fork")
    box, news = Mailbox(fork, 2), fork.Queue()
    seats = [Seat(rank, 2, rank, 2, mailbox=box) for rank in range(2)]
    if cards:
        meeting = f"localhost:{free_port()}/0/run"
        seats = [Seat(rank, 2, 0, 1, meeting, launched=True) for rank in range(2)]
    processes = [
        fork.Process(
            target=member,
            args=(replace(job, seat=seat), strike * (seat.rank == struck), news, moment, card),
        )
        for job, seat, card in zip(jobs, seats, cards or (None, None), strict=True)
    ]
    for each in processes:
        each.start()
    ends = sorted(news.get(timeout=60) for _ in range(2 - (strike == signal.SIGKILL)))
    for each in processes:
        each.join()
    return ends


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_in_an_evaluation_ends_it_on_all_devices_and_it_is_made_anew(
    tmp_path: Path, rank: int
) -> None:
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    pictures = small.data(tmp_path / "pictures")
    whole, broken = (small.job(tmp_path / name, pictures, workload=SHORT) for name in ("whole", "broken"))
    assert both([whole] * 2) == [("finished", 0), ("finished", 1)]
    assert both([broken] * 2, rank, ("eval", 8)) == [("interrupted", 0), ("interrupted", 1)]
    run = record.read(broken.folder)
    assert (run["status"], run["steps_done"]) == ("interrupted", 8)
    assert [row["step"] for row in record.read_evals(broken.folder)] == [4]
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
    elsewhere = replace(one, facts={**one.facts, "gpu": "A100"}), "gpu, A100, than device 0, None"
    prepare.cache(pictures, tmp_path / "cache", Bars())
    cached = replace(one, cache=tmp_path / "cache"), "data_cache, True, than device 0, False"
    for odd, named in ((other, "seed, 1, than device 0, 0"), (newer, commit), cached, elsewhere):
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


# A run over two machines, each with a GPU of its own


def cards(watts: float = 300.0, memory: int = 3) -> tuple[Card, Card]:
    """What the two machines have: the second card is the slower one, draws a third and fills more."""
    return Card(watts=watts, memory=memory * 2**30), Card(
        busy=40, watts=watts / 3, memory=(memory + 2) * 2**30
    )


def energy(folder: Path) -> float:
    """What the checkpoint of a run over two machines counts for their cards, kJ."""
    saved = checkpoint.load(folder)
    assert saved is not None
    states = [saved["telemetry"], *saved["elsewhere"]]
    assert len(states) == 2
    drawn = [machine.Tally(*state["tallies"]["gpu0 energy_kj"]).total for state in states]
    assert min(drawn) > 0
    return sum(drawn)


@pytest.fixture
def spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A run to share by two machines, which save wherever they ask each other, at every step."""
    torch.set_num_threads(1)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(train, "ASK_S", 0.0)
    monkeypatch.setattr(train, "CHECKPOINT_S", 0.0)
    return small.job(tmp_path / "run", small.data(tmp_path / "pictures"))


def test_what_several_machines_measure_adds_up_also_over_a_stop(tmp_path: Path, spread: Job) -> None:
    assert both([spread] * 2, 1, cards=cards()) == [("interrupted", 0), ("interrupted", 1)]
    run = record.read(spread.folder)
    assert run["checkpoints"] == run["steps_done"] == 16  # one of each step, an evaluation's among them
    assert run["gpu_power_w"] == pytest.approx(400)
    assert (run["gpu_busy_pct"], run["gpu_memory_peak_mib"]) == (pytest.approx(60), 5 * 1024)
    assert run["gpu_energy_kj"] == pytest.approx(energy(spread.folder))
    assert run["gpu_throttled_s"] is None
    assert run["unmeasured"]["gpu_throttled_s"].startswith("node-1: gpu0: nvmlDeviceGetCurrentClocksEvent")
    before = [path.read_text() for path in machines.all_rows(spread.folder)]
    shutil.copytree(spread.folder, tmp_path / "moved")

    assert both([spread] * 2, cards=cards(watts=0.0, memory=1)) == [("finished", 0), ("finished", 1)]
    whole = record.read(spread.folder)
    assert (whole["status"], whole["resumed"]) == ("finished", 1)
    assert whole["gpu_energy_kj"] == pytest.approx(run["gpu_energy_kj"])  # no more was drawn
    assert whole["gpu_memory_peak_mib"] == 5 * 1024
    assert 0 < whole["gpu_power_w"] < 400
    for path, kept in zip(machines.all_rows(spread.folder), before, strict=True):
        assert path.read_text().startswith(kept[: kept.index(",checkpoint,")])

    on_one = replace(spread, folder=tmp_path / "moved")
    until = (checkpoint.load(on_one.folder) or {})["telemetry"]["t"]
    assert both([on_one] * 2) == [("finished", 0), ("finished", 1)]
    moved = record.read(on_one.folder)
    for field in (field.name for field in record.FIELDS if field.group == "hardware"):
        assert (moved[field], moved["unmeasured"][field]) == (None, train.MOVED)
    first, gone = ((on_one.folder / name).read_text() for name in ("telemetry.csv", "telemetry-1.csv"))
    assert float(first.splitlines()[-1].partition(",")[0]) > until
    assert float(gone.splitlines()[-1].partition(",")[0]) <= until


def test_a_machine_that_is_lost_leaves_what_all_have_said_last(spread: Job) -> None:
    assert both([spread] * 2, 1, ("eval", 16), signal.SIGKILL, cards()) == [("left alone", 0)]
    run = record.read(spread.folder)
    assert run["status"] == "failed"
    assert run["gpu_energy_kj"] == pytest.approx(energy(spread.folder))
    assert both([spread] * 2, cards=cards(watts=0.0)) == [("finished", 0), ("finished", 1)]
    assert record.read(spread.folder)["gpu_energy_kj"] == pytest.approx(run["gpu_energy_kj"])


def test_where_a_machine_is_lost_before_all_have_said_anything_the_record_says_so(
    spread: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_S", 1e6)
    monkeypatch.setattr(train, "TELL_S", 0.0)
    assert both([spread] * 2, 1, ("train", 3), signal.SIGKILL, cards()) == [("left alone", 0)]
    run = record.read(spread.folder)
    assert (run["status"], run["checkpoints"]) == ("failed", 0)
    assert run["unmeasured"]["gpu_energy_kj"] == run["unmeasured"]["cpu_busy_pct"] == train.UNSAID


def test_a_run_that_diverges_on_several_machines_ends_on_all(spread: Job, tmp_path: Path) -> None:
    job = small.job(tmp_path / "wild", spread.data or tmp_path, "07-no-sync-bn", optim="lr = 1e30")
    assert both([job] * 2, cards=cards()) == [("finished", 0), ("finished", 1)]
    run = record.read(job.folder)
    assert (run["status"], run["gpu_power_w"]) == ("diverged", pytest.approx(400))


@pytest.mark.parametrize("devices", [3, 5, 16])
def test_devices_that_do_not_divide_the_replicas_are_refused(
    plan: Callable[..., list[matrix.Run]], devices: int
) -> None:
    with pytest.raises(BenchError, match=f"--devices {devices} does not divide the number") as caught:
        plan("00-mmseg-baseline", devices=devices)
    assert caught.value.hint == "use --devices 1 or 2"


def launch_twice(folder: Path, *options: list[str]) -> list[subprocess.Popen[str]]:
    """Two launchers on this machine, a process each, that know nothing of each other but an address; what
    each adds to the command. Each has a core: both would be pinned to the first of the cores they share."""
    small.job(folder, folder, workload=SHORT)  # writes workload and recipe
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "test"]
    meet = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"localhost:{free_port()}",
        "--local-addr",
        "localhost",
    ]
    what = ["--workload", "smaller.toml", "--recipe", "small-recipe.toml", "--seeds", "2", "--results", "out"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "SEGBENCH_CACHE": str(folder / "cache"),
    }
    cores = os.sched_getaffinity(0)
    launchers = []
    try:
        for core, more in zip(sorted(cores), options, strict=False):
            os.sched_setaffinity(0, {core})
            launcher = subprocess.Popen(
                [sys.executable, *launch, *meet, "-m", "bench", "run", *what, *more],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            launchers.append(launcher)
    finally:
        os.sched_setaffinity(0, cores)
    return launchers


def test_two_machines_share_a_run_through_torchrun(tmp_path: Path) -> None:
    launchers = launch_twice(tmp_path, [], [])
    said = [launcher.communicate(timeout=120) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert sum("Next: segbench report" in out for out, _ in said) == 1  # one process tells
    for seed in range(2):
        run = record.read(record.run_folder(tmp_path / "out", "smaller", "small-recipe", seed))
        assert (run["status"], run["device_count"], run["steps_done"]) == ("finished", 2, 12)
        folder = record.run_folder(tmp_path / "out", "smaller", "small-recipe", seed)
        peaks = [peak_mib(folder / f"telemetry{number}.csv") for number in ("", "-1")]
        assert run["memory_peak_mib"] == pytest.approx(sum(peaks), rel=1e-5)
        assert run["unmeasured"]["gpu_power_w"] == "the run used no GPU"


def peak_mib(path: Path) -> float:
    """The most memory that the processes of a machine had while they trained."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "train" and row["memory_mib"]]
    return max(float(row["memory_mib"]) for row in rows)


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
