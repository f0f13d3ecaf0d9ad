"""Train what the plan of a matrix says, run after run, and carry on whatever happens to one of them.

Processes are forked from a server that has imported torch once; this module never imports it.
"""

from __future__ import annotations

import functools
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Self

from bench import STOPS, BenchError, doctor, record, server
from bench.matrix import Job, Run, lanes
from bench.progress import Display
from bench.server import TICK_S, TRAINER
from bench.training import Outcome, Training, begin

PATIENCE_S = 60.0  # how long a run that was asked to stop may take over its checkpoint


@dataclass(frozen=True)
class Result:
    """What became of the runs, in the order of the plan. `stopped`: somebody said stop; some are missing."""

    outcomes: list[Outcome]
    stopped: bool


def run(
    runs: Sequence[Run],
    display: Display,
    *,
    trainer: str = TRAINER,
    patience_s: float = PATIENCE_S,
) -> Result:
    """Train what the plan says, and tell `display`. Nothing that happens to a run stops the others.

    One of STOPS ends it after what trains has saved its checkpoint, or after `patience_s`; a second one but
    SIGHUP kills the run. Raises BenchError, before anything is trained, where the results cannot be written.
    """
    context = server.start(trainer)
    outcomes: dict[tuple[str, int], Outcome] = {}
    queue: deque[Run] = deque()
    with _Stop() as stop, display:
        for each in runs:
            if each.action == "skip" and each.record is not None:
                outcomes[each.job.key] = Outcome(each.job, each.record["status"], each.record)
                display.skip(each.job.key, each.record["status"], each.record)
            else:
                queue.append(each)
        if queue:
            if queue[0].job.seat.rank == 0:
                _check_writable(queue[0].job.results)
            if queue[0].job.seat.local_rank == 0:
                _ready_weights(queue, context, trainer, display, stop)
            data = _find_data(queue[0].job, display, stop)
            examined = _examine(queue[0].job, trainer, display, stop)
            queue = deque(
                replace(each, job=replace(each.job, data=data, examined=examined)) for each in queue
            )
            for outcome in _train_all(queue, context, trainer, display, stop, patience_s):
                outcomes[outcome.job.key] = outcome
                display.end(outcome.job.key, outcome.status, outcome.record, outcome.error)
    done = [outcomes[each.job.key] for each in runs if each.job.key in outcomes]
    return Result(done, stopped=stop.requests > 0)


def _train_all(
    queue: deque[Run],
    context: ForkServerContext,
    trainer: str,
    display: Display,
    stop: _Stop,
    patience_s: float,
) -> Iterator[Outcome]:
    """Empty the queue, a run a lane, and give each outcome as it comes."""
    free = lanes(queue[0].job.workload, queue[0].job.device, queue[0].job.seat)
    training: list[Training] = []
    postponed = set()
    asked: float | None = None
    try:
        while training or (queue and not stop.requests):
            while queue and free and not stop.requests:
                if training and queue[0].job.key in postponed:
                    break
                job = replace(queue.popleft().job, all_cores=free[-1])
                begun = begin(job, context, trainer, display)
                if isinstance(begun, Training):
                    free.pop()
                    training.append(begun)
                elif job.seat.launched:
                    raise _alone(begun)
                elif begun.status == "taken" and job.key not in postponed:
                    postponed.add(job.key)  # look again when the others are done
                    queue.append(Run(job, "train", None))
                else:
                    yield begun
            if training:
                connection.wait([source for each in training for source in each.sources], TICK_S)
            for each in [each for each in training if each.has_ended(display)]:
                training.remove(each)
                free.append(each.look.job.all_cores)
                yield each.settle(stopped=stop.requests > 0)
            display.tick()
            if stop.requests and asked is None:
                asked = time.monotonic()
                display.stopping()
                for each in training:
                    each.terminate()
            if stop.requests > 1 or (asked is not None and time.monotonic() - asked > patience_s):
                for each in training:
                    each.kill()
    finally:
        for each in training:  # a bug of ours must not leave them behind
            each.kill()
            each.close()


def _alone(begun: Outcome) -> BenchError:
    """The error that ends this process, and so all that torchrun started: they would wait for it in vain."""
    is_taken = begun.status == "taken"
    why = begun.error or ("another segbench trains it" if is_taken else f"it is {begun.status} by now")
    hint = "wait for the other segbench" if is_taken else "start it on all machines again"
    return BenchError(f"{begun.job.folder}: {why}", begun.hint or hint)


def _check_writable(results: Path) -> None:
    """BenchError: `results` cannot take files. A disk that is full shows only when something is written."""
    probe = results / ".probe"
    record.write_atomic(probe, " " * 65536)
    probe.unlink(missing_ok=True)  # another segbench may have been as quick


def _find_data(job: Job, display: Display, stop: _Stop) -> Path | None:
    """The folder of the matrix's pictures, None for noise. Scenes that were never drawn here are drawn now, a
    data set that was never looked at is looked at now: once.

    Raises BenchError where they cannot be written or are not sound, KeyboardInterrupt where somebody says
    stop.
    """
    settings = job.workload.values["data"]
    if settings["source"] == "noise":
        return None
    from bench import scenes, verification  # numpy and Pillow, which nothing else here needs

    def tell(what: str, done: int, total: int) -> None:
        if stop.requests:
            raise KeyboardInterrupt
        display.prepare(what.format(total), done, total)

    if settings["source"] == "scenes":
        counts = settings["train_images"], settings["val_images"]
        drawn = functools.partial(tell, "drawing {} scenes, once")
        return scenes.ensure(scenes.cache_folder(), *counts, settings["scenes_seed"], drawn)
    assert job.data is not None, "the plan asks for it"
    if job.seat.local_rank:  # another process of this machine looks, and all wait for it
        return job.data
    verification.verify(job.data, job.workload, functools.partial(tell, "verifying {} pairs, once"))
    return job.data


def _ready_weights(
    queue: Iterable[Run], context: ForkServerContext, trainer: str, display: Display, stop: _Stop
) -> None:
    """Have all weights at hand that the runs start from, fetched where need be.

    Raises BenchError where they cannot be had or do not fit, KeyboardInterrupt where somebody says stop.
    """

    def wait() -> None:
        if stop.requests:
            raise KeyboardInterrupt
        display.tick()

    starts = {each.job.recipe.values["model"]["weights"]: each.job for each in queue}
    jobs = [(weights, job) for weights, job in sorted(starts.items()) if weights != "none"]
    for done, (weights, job) in enumerate(jobs):
        if job.workload.values["data"]["source"] == "noise":  # which needs none
            continue
        display.prepare(f"loading weights {weights}; what is not there is fetched", done, len(jobs))
        server.ask(context, trainer, "ready", job, wait=wait)


def _examine(job: Job, trainer: str, display: Display, stop: _Stop) -> tuple[doctor.Line, ...]:
    """What the machine is like before it trains: once a matrix, as nothing of ours runs yet.

    Raises KeyboardInterrupt where somebody says stop.
    """

    def wait() -> None:
        if stop.requests:
            raise KeyboardInterrupt
        display.tick()

    if job.seat.rank:  # the record, and all that lies beside it, is kept by the first device
        return ()
    found = doctor.examine(
        job.workload,
        device=job.device,
        devices=job.seat.local_devices,
        data=job.data,
        results=job.results,
        trainer=trainer,
        wait=wait,
    )
    return tuple(found)


class _Stop:
    """Counts STOPS instead of letting them cut something off half-way.

    A terminal that goes away says so twice, and whoever ends its session may send SIGTERM as well: that is
    one request.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._deliberate = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._count) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._deliberate += number != signal.SIGHUP
        self.requests = max(1, self._deliberate)
