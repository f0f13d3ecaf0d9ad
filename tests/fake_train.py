"""A trainer without torch: what a run does is the title of its recipe; "a|b": one device does a, the next b.

It keeps the contract that the half without torch has with `bench.train`: `facts`, `examine`, `find_weights`,
`ready`, `train`, `Interrupted`, and a record that has its last word before an exception leaves `train`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from bench import STOPS, BenchError, dataset, record
from bench.matrix import Job
from bench.progress import Progress

STEPS = 20


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Somebody asked to stop, and the checkpoint is written."""


def facts(device: str, devices: int = 1) -> dict[str, Any]:
    if device == "cuda":
        raise BenchError("there is no CUDA device", "train on the processor with --device cpu")
    return {
        "device": "cpu",
        "device_count": devices,
        "cpu": "abacus",
        "torch": "0.0",
        "threads": 1,
        "host": "attic",
    }


def examine(device: str, devices: int = 1) -> dict[str, Any]:
    return {
        "facts": {**facts(device, devices), "cores": 2},
        "torch_cuda": None,
        "torchvision_cuda": None,
        "kernel_ms": [[1.0] * 20],
        "others_pct": 50.0,
        "stolen_pct": 0.0,
        "cards": [],
        "cards_problem": "the run used no GPU",
    }


def find_weights(backbone: str, weights: str, place: Any) -> tuple[str, bool]:
    return f"attic/{weights}.pt", weights != "absent"


def ready(job: Job) -> None:
    asked = job.recipe.values["model"]["weights"]
    if job.weights is not None and job.weights.name in ("wrong", f"wrong-{asked}"):
        raise BenchError("the weights do not fit", "name others with --weights")
    if job.weights is not None and job.weights.name == "slow":
        signal.sigtimedwait([], 10)  # at most, if nobody stops it


def train(job: Job, tell: Callable[[Progress], None]) -> None:
    asked: list[int] = []
    for each in STOPS:
        signal.signal(each, lambda number, frame: asked.append(number))
    title = job.recipe.title.split("|")[job.seat.rank]
    if title == "bug":
        raise ValueError("no such thing")  # before the record is begun
    if job.seat.rank:
        _do(title, record.blank(), tell, asked)
        return
    run = _begin(job)
    tell(Progress("setup", run["steps_done"], STEPS))
    try:
        _do(title, run, tell, asked)
    except Interrupted:
        (job.folder / "checkpoint.pt").touch()
        stopped = {"status": "interrupted", "error": "asked to stop", "steps_done": 7, "checkpoints": 1}
        record.write(job.folder, {**run, **stopped})
        raise
    except BenchError as error:
        status = "diverged" if title == "diverge" else "failed"
        record.write(job.folder, {**run, "status": status, "error": error.message})
        raise
    for step, miou in ((10, 20.0), (20, 20.0)):
        tell(Progress("train", step - 1, STEPS, 500.0, None if step == 10 else 20.0, 1.0))
        tell(Progress("eval", step, STEPS, 500.0, None if step == 10 else 20.0, 1.0))
        tell(Progress("train", step, STEPS, 500.0, miou, 0.5))
    done = {
        "steps_done": STEPS,
        "final_miou": 20.0 + job.seed,
        "images_per_s": 500.0,
        "train_s": 2.0,
        "wall_s": 3.0,
    }
    record.write(job.folder, {**run, **done, "status": "finished"})


def _do(title: str, run: dict[str, Any], tell: Callable[[Progress], None], asked: list[int]) -> None:
    match title:
        case "fail":
            raise BenchError("image 7 is damaged", "fetch it again")
        case "diverge":
            raise BenchError("the loss was nan at step 3", "lower the learning rate")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "mute":
            print("something odd happened", file=sys.stderr)
            os._exit(3)
        case "wait" if not run["resumed"]:
            for _ in range(1000):  # at most ten seconds, if nobody stops it
                tell(Progress("train", 7, STEPS, 500.0))
                if asked:
                    raise Interrupted
                signal.sigtimedwait([], 0.01)
        case "save":  # takes longer over its checkpoint than the others over their end
            while not asked:
                tell(Progress("train", 7, STEPS, 500.0))
                signal.sigtimedwait([], 0.01)
            signal.sigtimedwait([], 1.0)
            raise Interrupted
        case "stubborn":
            for _ in range(1000):  # at most ten seconds, if nobody stops it
                tell(Progress("train", 7, STEPS, 500.0))
                signal.sigtimedwait([], 0.01)


def _begin(job: Job) -> dict[str, Any]:
    resumed = 0
    if (job.folder / "checkpoint.pt").exists():
        resumed = record.read(job.folder)["resumed"] + 1
    run = record.blank(
        protocol=job.workload.values["evaluation"]["protocol"],
        workload=job.workload.name,
        recipe=job.recipe.name,
        seed=job.seed,
        recipe_fingerprint=job.recipe.fingerprint,
        workload_fingerprint=job.workload.fingerprint,
        command=job.command,
        steps=STEPS,
        steps_done=7 * resumed,
        data_workers=job.workload.values["train"]["data_workers"],
        deterministic=job.deterministic,
        runs_at_once=job.runs_at_once,
        data_cache=job.cache is not None,
        data_fingerprint=dataset.fingerprint(job.data) if job.data else None,
        resumed=resumed,
        status="running",
        **job.facts,
    )
    record.write(job.folder, run)
    return run
