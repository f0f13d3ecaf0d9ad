"""One run, from set-up to record."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest
import torch
from PIL import Image

from bench import BenchError, checkpoint, dataset, learner, prepare, record
from bench.matrix import Job
from bench.progress import Progress
from bench.train import Interrupted, _compare, ready, train
from tests import small
from tests.fake_data import Watcher
from tests.fake_nvml import Card, FakeNvml, Time


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Job:
    job = small.job(tmp_path_factory.mktemp("finished"), pictures)
    train(job, silent)
    return job


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def silent(progress: Progress) -> None:
    pass


def stop_at(step: int) -> Callable[[Progress], None]:
    """A listener that asks its own process to stop at the first word from `step` on."""

    def listen(progress: Progress) -> None:
        if progress.step >= step:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


def pixels(path: Path, size: int | None = None) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST) if size else picture)


def outcome(job: Job) -> tuple[list[Any], str]:
    """What must not depend on interruptions: every evaluation and every loss, to the last bit."""
    evals = [
        {k: v for k, v in row.items() if k not in ("train_s", "wall_s")}
        for row in record.read_evals(job.folder)
    ]
    rows = csv.reader((job.folder / "steps.csv").read_text().splitlines())
    return evals, "\n".join(",".join(row[:3]) for row in rows)


def test_a_finished_run_says_so_and_leaves_no_checkpoint(finished: Job) -> None:
    run = record.read(finished.folder)
    assert (run["status"], run["error"]) == ("finished", None)
    assert run["steps_done"] == run["steps"] == 6 * 32 // 8
    assert not (finished.folder / checkpoint.NAME).exists()


def test_every_null_of_a_finished_record_has_a_reason_and_nothing_else_has(finished: Job) -> None:
    run = record.read(finished.folder)
    empty = {name for name, value in run.items() if value is None} - {"error"}
    assert set(run["unmeasured"]) == empty
    assert all(run["unmeasured"].values())


def test_a_cpu_fills_every_field_that_needs_no_gpu(finished: Job) -> None:
    allowed = {
        "gpu",
        "driver",
        "cuda",
        "cudnn",
        "peak_nominal_tflops",
        "mfu_nominal_pct",
        "git_commit",
        "git_dirty",
    }
    unmeasured = set(record.read(finished.folder)["unmeasured"])
    assert {name for name in unmeasured if not name.startswith("gpu_")} <= allowed


def test_the_phases_add_up_to_wall_time(finished: Job) -> None:
    run = record.read(finished.folder)
    assert sum(run[f"{phase}_s"] for phase in ("setup", "train", "eval", "checkpoint")) == pytest.approx(
        run["wall_s"]
    )
    assert all(run[f"{phase}_s"] > 0 for phase in ("setup", "train", "eval", "checkpoint"))


def test_evaluations_are_evenly_spread_and_the_last_is_at_the_end(finished: Job) -> None:
    evals = record.read_evals(finished.folder)
    assert [row["step"] for row in evals] == [8, 16, 24]
    assert [row["epoch"] for row in evals] == [2, 4, 6]
    run = record.read(finished.folder)
    assert run["final_miou"] == evals[-1]["miou"]
    assert run["best_miou"] == max(row["miou"] for row in evals)


def test_time_to_target_is_that_of_the_first_evaluation_that_reaches_it(finished: Job) -> None:
    run, evals = record.read(finished.folder), record.read_evals(finished.folder)
    first = next(row for row in evals if row["miou"] >= run["target_miou"])
    assert run["steps_to_target"] == first["step"]
    assert run["time_to_target_train_s"] == first["train_s"] < first["wall_s"] == run["time_to_target_wall_s"]


def test_the_confusion_matrix_counts_every_valid_pixel_of_the_validation_set(
    finished: Job, pictures: Path
) -> None:
    rows = list(csv.reader((finished.folder / "confusion.csv").read_text().splitlines()))
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])
    crop = finished.workload.values["train"]["crop"]
    labels = [pixels(path, crop) for path in sorted((pictures / "annotations" / "validation").glob("*.png"))]
    expected = [(np.stack(labels) == value).sum() for value in range(1, 13)]
    assert counts.sum(1).tolist() == expected


def test_samples_show_picture_label_and_prediction_at_one_size(finished: Job) -> None:
    names = sorted(path.name for path in (finished.folder / "samples").iterdir())
    assert [name.rsplit("-", 1)[1] for name in names] == ["image.png", "label.png", "prediction.png"] * 2
    assert {pixels(finished.folder / "samples" / name).shape[:2] for name in names} == {(24, 24)}
    predictions = [pixels(finished.folder / "samples" / name) for name in names if "prediction" in name]
    assert all(prediction.min() >= 1 and prediction.max() <= 12 for prediction in predictions)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    tmp_path: Path, pictures: Path, finished: Job
) -> None:
    again, other = small.job(tmp_path / "a", pictures), small.job(tmp_path / "b", pictures, seed=1)
    for job in (again, other):
        train(job, silent)
    assert outcome(again) == outcome(finished)
    assert outcome(other) != outcome(finished)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_from_a_cache_is_the_same_to_the_bit_and_says_that_it_used_one(
    tmp_path: Path, pictures: Path, finished: Job, workers: int
) -> None:
    prepare.cache(pictures, tmp_path / "cache", Watcher())
    lines = "[data]\nin_memory = false\n" + f"[train]\ndata_workers = {workers}\n" * (workers > 0)
    job = replace(small.job(tmp_path, pictures, workload=lines), cache=tmp_path / "cache")
    train(job, silent)
    assert outcome(job) == outcome(finished)
    used = [record.read(each.folder)["data_cache"] for each in (job, finished)]
    assert used == [True, False]


@pytest.fixture(scope="module", params=["00-mmseg-baseline", "02-decoupled-weight-decay", "07-no-sync-bn"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Job:
    job = small.job(tmp_path_factory.mktemp("whole"), pictures, request.param)
    train(job, silent)
    return job


@pytest.mark.parametrize("step", [1, 9, 22])
def test_a_stopped_and_resumed_run_ends_bit_identical(
    tmp_path: Path, pictures: Path, whole: Job, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.TELL_S", 0.0)
    broken = small.job(tmp_path, pictures, str(whole.recipe.parent))
    with pytest.raises(Interrupted):
        train(broken, stop_at(step))
    halfway = record.read(broken.folder)
    assert (halfway["status"], halfway["steps_done"]) == ("interrupted", step + 1)
    assert halfway["error"] == "asked to stop"
    assert halfway["checkpoints"] >= 1
    train(broken, silent)
    assert outcome(broken) == outcome(whole)
    run = record.read(broken.folder)
    assert (run["status"], run["resumed"], run["lost_s"]) == ("finished", 1, pytest.approx(0, abs=0.1))
    assert "resumed" in run["warnings"]
    assert run["train_s"] > halfway["train_s"]


def test_a_stop_during_the_last_step_leaves_its_evaluation_to_the_next_start(
    tmp_path: Path, pictures: Path, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.TELL_S", 0.0)
    job = small.job(tmp_path, pictures)
    with pytest.raises(Interrupted):
        train(job, stop_at(23))
    assert record.read(job.folder)["steps_done"] == 24
    train(job, silent)
    assert record.read(job.folder)["status"] == "finished"
    assert outcome(job) == outcome(finished)


def test_a_run_that_ends_after_its_last_evaluation_needs_no_other(
    tmp_path: Path, pictures: Path, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small.job(tmp_path, pictures)
    with monkeypatch.context() as patch:
        patch.setattr("bench.artifacts.write_samples", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(job, silent)
    assert record.read(job.folder)["status"] == "failed"
    train(job, silent)
    assert outcome(job) == outcome(finished)
    assert (job.folder / "confusion.csv").read_text() == (finished.folder / "confusion.csv").read_text()


def test_every_stop_counts_and_what_was_lost_adds_up(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.TELL_S", 0.0)
    job = small.job(tmp_path, pictures)

    def fall(progress: Progress) -> None:
        if progress.step == 12:
            raise ZeroDivisionError

    for times in range(3):
        with pytest.raises(ZeroDivisionError):
            train(job, fall)
        assert record.read(job.folder)["resumed"] == times
    before = record.read(job.folder)["lost_s"]
    train(job, silent)
    run = record.read(job.folder)
    assert run["resumed"] == 3
    assert run["lost_s"] > before > 0


def test_a_run_that_goes_on_with_other_code_says_so_to_its_end(tmp_path: Path, pictures: Path) -> None:
    job = small.job(tmp_path, pictures)
    other = replace(job, facts={**job.facts, "git_commit": "f" * 40})
    for step, stage in ((5, job), (9, job), (12, other)):
        with pytest.raises(Interrupted):
            train(stage, stop_at(step))
        assert "code_changed" not in record.read(job.folder)["warnings"] or stage is other
    assert "code_changed" in record.read(job.folder)["warnings"]
    train(other, silent)  # with the code of the stage before, but not of the first
    run = record.read(job.folder)
    assert (run["status"], run["resumed"]) == ("finished", 3)
    assert run["warnings"][:2] == ["resumed", "code_changed"]


def test_a_run_whose_record_was_lost_goes_on_and_claims_no_change_of_code(
    tmp_path: Path, pictures: Path
) -> None:
    job = small.job(tmp_path, pictures)
    with pytest.raises(Interrupted):
        train(job, stop_at(5))
    (job.folder / "run.json").unlink()
    train(job, silent)
    run = record.read(job.folder)
    assert run["resumed"] == 1
    assert "code_changed" not in run["warnings"]


def test_a_run_that_begins_anew_with_other_code_has_only_that(tmp_path: Path, pictures: Path) -> None:
    job = small.job(tmp_path, pictures)
    with pytest.raises(Interrupted):
        train(replace(job, facts={**job.facts, "torch": "1.0"}), stop_at(5))
    for name in (checkpoint.NAME, checkpoint.BEFORE):
        (job.folder / name).unlink(missing_ok=True)
    train(job, silent)
    assert "code_changed" not in record.read(job.folder)["warnings"]


def test_a_run_on_other_data_does_not_go_on(tmp_path: Path, pictures: Path, finished: Job) -> None:
    job = small.job(tmp_path, pictures)
    with pytest.raises(Interrupted):
        train(job, stop_at(9))
    assert record.read(job.folder)["data_fingerprint"] == dataset.fingerprint(pictures)
    (pictures / "annotations" / "training" / "more.png").write_text("a label without a picture")
    try:
        assert record.read(job.folder)["data_fingerprint"] != dataset.fingerprint(pictures)
        train(job, silent)
    finally:
        (pictures / "annotations" / "training" / "more.png").unlink()
    assert record.read(job.folder)["resumed"] == 0
    assert (job.folder / f"{checkpoint.NAME}.aside").exists()


@pytest.mark.parametrize(("spoilt", "resumed"), [(1, 1), (2, 0)])
def test_a_run_goes_on_from_the_checkpoint_before_a_spoilt_one_or_starts_over(
    tmp_path: Path, pictures: Path, finished: Job, spoilt: int, resumed: int
) -> None:
    job = small.job(tmp_path, pictures)
    with pytest.raises(Interrupted):
        train(job, stop_at(10))
    for name in (checkpoint.NAME, checkpoint.BEFORE)[:spoilt]:
        path = job.folder / name
        path.write_bytes(path.read_bytes()[:1000])
    train(job, silent)
    assert outcome(job) == outcome(finished)
    assert record.read(job.folder)["resumed"] == resumed


@pytest.mark.parametrize("which", [1, 3], ids=["first", "last"])
def test_a_stop_in_an_evaluation_does_not_wait_for_its_end_and_makes_it_anew(
    tmp_path: Path, pictures: Path, finished: Job, which: int
) -> None:
    job, begun = small.job(tmp_path, pictures), []

    def stop(progress: Progress) -> None:
        if progress.phase == "eval":
            begun.append(progress.step)
            if len(begun) == which:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(job, stop)
    run = record.read(job.folder)
    assert (run["status"], run["steps_done"]) == ("interrupted", 8 * which)
    assert len(record.read_evals(job.folder)) == which - 1
    train(job, silent)
    assert outcome(job) == outcome(finished)


def test_devices_that_do_not_train_the_same_are_told_apart() -> None:
    same = {"seed": 1, "recipe_fingerprint": "aa"}
    _compare([same, dict(same)])
    with pytest.raises(BenchError, match="device 2 has another recipe_fingerprint, bb, than device 0, aa"):
        _compare([same, same, {**same, "recipe_fingerprint": "bb"}])


def test_want_of_memory_names_the_slice_that_does_not_fit(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)  # torch's own words

    monkeypatch.setattr("bench.replicas.accumulate", full)
    for parent, words, advice in (
        ("00-mmseg-baseline", "8 images of 24 x 24 .with sync BN all replicas", "--devices N"),
        ("07-no-sync-bn", "4 images of 24 x 24 .one replica", "more memory"),
    ):
        job = small.job(tmp_path / parent, pictures, parent)
        with pytest.raises(BenchError, match=f"out of memory: {words}") as caught:
            train(job, silent)
        assert advice in caught.value.hint
        assert record.read(job.folder)["status"] == "failed"


def test_a_data_worker_that_is_killed_is_named_and_the_run_can_go_on(
    tmp_path: Path, pictures: Path, finished: Job
) -> None:
    job = small.job(tmp_path, pictures, workload="[train]\ndata_workers = 2\n")

    def kill(progress: Progress) -> None:
        if progress.step >= 9:
            for worker in multiprocessing.active_children():
                worker.kill()

    with pytest.raises(BenchError, match="a process that prepares batches has died") as caught:
        train(job, kill)
    assert "data_workers" in caught.value.hint
    assert record.read(job.folder)["status"] == "failed"
    train(job, silent)
    assert outcome(job) == outcome(finished)


def test_an_nvml_that_fails_in_mid_run_costs_the_run_nothing_but_what_it_would_have_said(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, finished: Job
) -> None:
    world = FakeNvml(Time(), {"GPU-0": Card()})
    world.refuse["nvmlGpmQueryDeviceSupport"] = pynvml.NVML_ERROR_NOT_SUPPORTED  # it wants time to pass
    monkeypatch.setitem(sys.modules, "pynvml", world)
    monkeypatch.setattr("bench.device.uuids", lambda *_: ["GPU-0"])

    def lose(progress: Progress) -> None:
        if progress.phase == "eval":
            for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetSamples"):
                world.refuse[name] = pynvml.NVML_ERROR_GPU_IS_LOST

    job = small.job(tmp_path / "run", pictures)
    train(job, lose)
    assert outcome(job) == outcome(finished)
    run = record.read(job.folder)
    assert (run["status"], run["gpu_power_w"], run["gpu_memory_peak_mib"]) == ("finished", 300, 3072)
    assert "telemetry_stopped" in run["warnings"]
    assert {"gpu_power_w", "gpu_memory_peak_mib"}.isdisjoint(run["unmeasured"])


def test_a_wall_clock_that_steps_back_changes_no_measured_time(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, told = small.job(tmp_path, pictures), iter(range(10**9, 0, -(10**4)))
    monkeypatch.setattr(time, "time", lambda: float(next(told)))
    train(job, silent)
    run = record.read(job.folder)
    assert 0 < run["train_s"] < run["wall_s"] < 100


def test_workers_change_nothing(tmp_path: Path, pictures: Path, finished: Job) -> None:
    job = small.job(tmp_path, pictures, workload="[train]\ndata_workers = 2\n")
    train(job, silent)
    assert outcome(job) == outcome(finished)


def test_the_warm_up_changes_nothing(
    tmp_path: Path, pictures: Path, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(learner.WARM_UP_STEPS, "cpu", 1)
    job = small.job(tmp_path, pictures)
    train(job, silent)
    assert outcome(job) == outcome(finished)


def test_a_loss_that_is_no_number_ends_the_run_as_diverged(tmp_path: Path, pictures: Path) -> None:
    job = small.job(tmp_path, pictures, optim="lr = 1e30")
    train(job, silent)
    run = record.read(job.folder)
    assert run["status"] == "diverged"
    assert "the loss of step" in run["error"]
    assert run["final_miou"] is None
    assert run["steps_done"] < run["steps"]


def test_a_damaged_picture_fails_the_run_and_is_named_in_the_record(tmp_path: Path) -> None:
    pictures = small.data(tmp_path / "pictures")
    victim = sorted((pictures / "images" / "training").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:200])
    job = small.job(tmp_path, pictures)
    with pytest.raises(BenchError, match=victim.name):
        train(job, silent)
    run = record.read(job.folder)
    assert run["status"] == "failed"
    assert victim.name in run["error"]


def test_a_bug_in_mid_run_is_recorded_with_what_was_measured(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.TELL_S", 0.0)
    job = small.job(tmp_path, pictures)

    def listen(progress: Progress) -> None:
        if progress.step == 12:
            raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError):
        train(job, listen)
    run = record.read(job.folder)
    assert (run["status"], run["error"]) == ("failed", "ZeroDivisionError: boom")
    assert len(record.read_evals(job.folder)) == 1
    assert run["final_miou"] is not None


def test_fewer_images_than_a_batch_are_refused(tmp_path: Path, pictures: Path) -> None:
    job = small.job(tmp_path, pictures, batch_size=512)
    with pytest.raises(BenchError, match="batches of 512"):
        train(job, silent)


def test_the_files_of_a_run_can_be_read_back(finished: Job) -> None:
    from bench import recipe, workload

    assert recipe.parse((finished.folder / "recipe.toml").read_text(), "recipe.toml") == finished.recipe
    assert (
        workload.parse((finished.folder / "workload.toml").read_text(), "workload.toml") == finished.workload
    )
    assert json.loads((finished.folder / "run.json").read_text())["schema"] == record.SCHEMA


def test_progress_tells_step_speed_and_the_last_miou(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.TELL_S", 0.0)
    heard: list[Progress] = []
    train(small.job(tmp_path, pictures), heard.append)
    assert [each.step for each in heard if each.miou is None] == list(range(1, 9))
    assert heard[-1].step == heard[-1].steps == 24
    assert heard[-1].miou == pytest.approx(heard[-1].miou)
    assert all(each.images_per_s and each.images_per_s > 0 for each in heard)


def test_workers_are_forked_before_any_thread_is_started(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.12 on a fork beside a thread is a warning, and a deadlock that waits to happen."""
    before = threading.active_count()  # a test that killed workers may have left threads
    threads: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: threads.append(threading.active_count()) or fork())
    train(small.job(tmp_path, pictures, workload="[train]\ndata_workers = 2\n"), silent)
    assert threads == [before, before]


# Noise

NOISE = """
[data]
source = "noise"
[evaluation]
evaluations = 2
samples = 0
"""


def test_a_run_on_noise_needs_no_pictures_and_leaves_a_whole_record(tmp_path: Path) -> None:
    job = replace(small.job(tmp_path, tmp_path, workload=NOISE), data=None)
    train(job, silent)
    run = record.read(job.folder)
    assert (run["status"], run["train_images"], run["val_images"]) == ("finished", 32, 5)
    assert run["steps_done"] == 24
    assert run["images_per_s"] > 0
    assert run["unmeasured"]["data_fingerprint"] == "the data is noise"
    assert "few_evaluations" not in run["warnings"]
    assert not (job.folder / "samples").exists()


def test_a_run_on_noise_goes_on_to_the_bit_where_it_was_stopped(tmp_path: Path) -> None:
    straight = replace(small.job(tmp_path / "straight", tmp_path, workload=NOISE), data=None)
    train(straight, silent)
    stopped = replace(small.job(tmp_path / "stopped", tmp_path, workload=NOISE), data=None)
    with pytest.raises(Interrupted):
        train(stopped, stop_at(7))
    train(stopped, silent)
    assert record.read(stopped.folder)["resumed"] == 1
    assert outcome(stopped) == outcome(straight)


def test_a_checkpoint_of_a_segbench_that_knew_of_one_machine_goes_on(tmp_path: Path) -> None:
    job = replace(small.job(tmp_path, tmp_path, workload=NOISE), data=None)
    with pytest.raises(Interrupted):
        train(job, stop_at(7))
    saved = checkpoint.load(job.folder) or {}
    saved["telemetry"]["tallies"]["memory_mib"] = [2.0**20, 1.0, 2.0**20]  # sum, seconds, peak
    for name in ("elsewhere", "machines", "moved"):
        del saved[name]
    checkpoint.save(job.folder, saved)
    train(job, silent)
    run = record.read(job.folder)
    assert (run["resumed"], run["memory_peak_mib"]) == (1, 2.0**20)


# Weights


def test_the_place_that_weights_lie_in_reaches_those_who_load_them(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr("bench.pretrained.load_backbone", lambda *given: asked.append(given[3]))
    job = small.job(tmp_path, pictures)
    values = {**job.recipe.values, "model": {"weights": "v1"}}
    job = replace(job, recipe=replace(job.recipe, values=values), weights=tmp_path / "mine")
    ready(job)
    train(job, silent)
    assert asked == [tmp_path / "mine"] * 2


def test_noise_loads_no_weights(tmp_path: Path) -> None:
    job = replace(small.job(tmp_path, tmp_path, workload=NOISE), data=None)
    values = {**job.recipe.values, "model": {"weights": "v1"}}  # which would not fit
    ready(replace(job, recipe=replace(job.recipe, values=values)))


def test_weights_that_do_not_fit_are_refused_without_a_record(tmp_path: Path, pictures: Path) -> None:
    job = small.job(tmp_path, pictures)
    ready(job)  # starts from none
    values = {**job.recipe.values, "model": {"weights": "v1"}}
    with pytest.raises(BenchError, match="weights mini-v1 do not fit the backbone"):
        ready(replace(job, recipe=replace(job.recipe, values=values)))
    assert not job.folder.exists()
