"""Train a matrix of recipes and seeds: plan first, then run after run, each in its own process.

The plan says of every run whether it is there already, is to go on or is to begin, and stops before anything
is trained where a record on disk cannot be compared with what would be made now. Processes are forked from a
server that has imported torch once; this module never imports it. A lock on the run's folder, held by the
process that trains and by this one, keeps two matrices from training one run. What happens to a process stays
with its run: the matrix goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import faulthandler
import fcntl
import functools
import importlib
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, reduction
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from bench import INTERRUPTED, STOPS, BenchError, doctor, machine, record, server
from bench.progress import Display, Progress
from bench.recipe import Recipe
from bench.recipe import check as check_recipe
from bench.seat import ALONE, Seat, on_this_machine
from bench.server import TICK_S, TRAINER, leave, open_signals
from bench.workload import Workload, check_data, check_weights

__all__ = ["Job", "Outcome", "Progress", "Result", "Run", "plan", "run"]

PEERS_S = 10.0  # how long the other devices of a run may take to notice that one has failed
PATIENCE_S = 60.0  # how long a run that was asked to stop may take over its checkpoint


@dataclass(frozen=True)
class Job:
    """All that the process of a run is given. `data`: the folder of the pictures; None for noise, and in a
    plan whose scenes the runner has yet to draw. `command`: the command line that asked for it. `facts`: the
    machine's fields of the record, as `facts(device)` of the trainer found them. `weights`: the folder or
    file that torchvision's weights are in; None: torch's own cache. `cache`: the folder that
    holds the pictures decoded; None: they are read from `data`. `examined`: what the doctor found before the
    matrix began."""

    recipe: Recipe
    workload: Workload
    seed: int
    folder: Path
    data: Path | None
    device: Literal["cpu", "cuda"]
    command: str
    deterministic: bool
    facts: Mapping[str, Any]
    weights: Path | None = None
    cache: Path | None = None
    runs_at_once: int = 1
    seat: Seat = ALONE
    all_cores: tuple[int, ...] = ()
    examined: tuple[doctor.Line, ...] = ()

    @property
    def cores(self) -> tuple[int, ...]:
        """The cores that the process of this device is pinned to; none: any."""
        each = len(self.all_cores) // self.seat.local_devices
        return self.all_cores[self.seat.local_rank * each :][:each]

    @property
    def key(self) -> tuple[str, int]:
        """(recipe, seed): what tells it from the other runs of its matrix."""
        return self.recipe.name, self.seed

    @property
    def results(self) -> Path:
        """The folder that holds the whole matrix."""
        return self.folder.parents[2]

    @property
    def log(self) -> Path:
        """Where the output of its process goes."""
        return self.folder / "log.txt"


Action = Literal["train", "resume", "retry", "skip"]


@dataclass(frozen=True)
class Run:
    """One run of the matrix and what is to be done about it; `record`: what its folder holds, if anything."""

    job: Job
    action: Action
    record: Mapping[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """What became of a run. `status` is the record's, or "taken": another segbench is training it."""

    job: Job
    status: str
    record: Mapping[str, Any] | None = None
    error: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Result:
    """What became of the runs, in the order of the plan. `stopped`: somebody said stop; some are missing."""

    outcomes: list[Outcome]
    stopped: bool


# -------------------------------------------------------------------------------------------------- the plan


def plan(
    recipes: Sequence[Recipe],
    workload: Workload,
    seeds: int,
    results: Path,
    *,
    data: Path | None = None,
    cache: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    seat: Seat = ALONE,
    command: str = "",
    deterministic: bool = False,
    trainer: str = TRAINER,
) -> list[Run]:
    """Every run of the matrix in the order in which it is to be trained. Writes nothing.

    Raises BenchError for an absent device, recipes that workload or device rule out, missing data, a cache
    of other pictures, a record that cannot be read, and a record that differs from what would be measured
    now.
    """
    if "reference" in results.parts:
        raise BenchError(
            f"{results} holds reference records, which no run may touch",
            "measure into another folder with --results, then copy what is to be kept",
        )
    _check(recipes, workload, data, weights, seat)
    if cache is not None:
        _check_cache(cache, workload, data)
    server.start(trainer)  # imports torch while the records are read
    for recipe, seed in order(recipes, seeds):
        _read(record.run_folder(results, workload.name, recipe.name, seed))
    facts = {
        **survey(recipes, workload, data=data, weights=weights, device=device, seat=seat, trainer=trainer),
        **_settings(workload, deterministic),
        "device_count": seat.devices,
    }
    return [
        _look(
            Job(
                recipe=recipe,
                workload=workload,
                seed=seed,
                folder=record.run_folder(results, workload.name, recipe.name, seed),
                data=data,
                device=facts["device"],
                command=command,
                deterministic=deterministic,
                facts=facts,
                weights=weights,
                cache=cache,
                runs_at_once=len(lanes(workload, facts["device"], seat)),
                seat=seat,
            )
        )
        for recipe, seed in order(recipes, seeds)
    ]


@contextlib.contextmanager
def excused(seat: Seat, trainer: str = TRAINER) -> Iterator[None]:
    """Within, what ends this process before a run begins is told to the others that torchrun started: they
    would wait for it."""
    try:
        yield
    except BenchError as error:
        if seat.launched:
            with contextlib.suppress(
                BenchError, RuntimeError
            ):  # what ends this process is said, whatever else fails
                server.ask(server.start(trainer), trainer, "excuse", seat, error.message)
        raise


def survey(
    recipes: Sequence[Recipe],
    workload: Workload,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    seat: Seat = ALONE,
    trainer: str = TRAINER,
) -> dict[str, Any]:
    """The machine's fields of the record, once it is clear that the recipes can be trained on it.

    Raises BenchError for an absent device, recipes that workload or device rule out, and missing data.
    """
    _check(recipes, workload, data, weights, seat)
    facts: dict[str, Any] = server.ask(server.start(trainer), trainer, "facts", device, seat.local_devices)
    for recipe in recipes:
        check_recipe(recipe, workload, facts["device"])
    return facts


def order(recipes: Sequence[Recipe], seeds: int) -> Iterator[tuple[Recipe, int]]:
    """Seed by seed, each beginning one recipe later, so that a drift of the machine lands on no one rung."""
    for seed in range(seeds):
        first = seed % len(recipes)
        for recipe in (*recipes[first:], *recipes[:first]):
            yield recipe, seed


def _check(
    recipes: Sequence[Recipe], workload: Workload, data: Path | None, weights: Path | None, seat: Seat
) -> None:
    """BenchError: something is wrong that shows without torch."""
    check_data(workload, data)
    check_weights(workload, weights)
    _check_devices(workload, seat.devices)
    for recipe in recipes:
        check_recipe(recipe, workload)


def _check_cache(cache: Path, workload: Workload, data: Path | None) -> None:
    """BenchError: the pictures of `data` are not what is in it."""
    from bench.cache import Cache  # numpy and Pillow, which nothing else here needs

    if data is None:
        raise BenchError(f"workload {workload.name} makes its own pictures", "leave --cache out")
    Cache(cache, data)


def _check_devices(workload: Workload, devices: int) -> None:
    replicas = workload.values["train"]["replicas"]
    if replicas % devices:
        fitting = [str(count) for count in range(1, replicas + 1) if replicas % count == 0]
        raise BenchError(
            f"--devices {devices} do not divide the {replicas} replicas of {workload.name}",
            f"use --devices {' or '.join(filter(None, [', '.join(fitting[:-1]), fitting[-1]]))}",
            2,
        )


def _read(folder: Path) -> dict[str, Any] | None:
    """The record in `folder`, None where none was begun. BenchError: it cannot be read."""
    if (folder / "run.json").exists():
        return record.read(folder)
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is not a folder", "move it away, or name another folder with --results")
    return None


def _look(job: Job) -> Run:
    """What is to be done about a run, from its record. BenchError: the record is of something else."""
    found = _read(job.folder)
    if found is None:
        return Run(job, "train", None)
    for name, wanted in _identity(job).items():
        if found[name] == wanted or (found[name] is None and found["status"] == "failed"):
            continue  # a run may fail before it knows its machine
        raise BenchError(
            f"{job.folder} holds another run: its {name} is {_show(found[name])}, now it is {_show(wanted)}",
            f"keep both with --results {_free(job.results)}, or move that folder away",
        )
    actions: dict[str, Action] = {"finished": "skip", "diverged": "skip", "failed": "retry"}
    return Run(job, actions.get(found["status"], "resume"), found)


def _identity(job: Job) -> dict[str, Any]:
    """The fields in which a record must agree before its run counts as this one."""
    wanted = {
        "workload": job.workload.name,
        "recipe": job.recipe.name,
        "seed": job.seed,
        "workload_fingerprint": job.workload.fingerprint,
        "recipe_fingerprint": job.recipe.fingerprint,
        "protocol": job.workload.values["evaluation"]["protocol"],
        "data_workers": job.workload.values["train"]["data_workers"],
        "deterministic": job.deterministic,
        "runs_at_once": job.runs_at_once,
        "data_cache": job.cache is not None,
    }
    if job.data is not None:
        wanted["data_fingerprint"] = _fingerprint(job.data)
    found = {name: job.facts[name] for name in record.MUST_MATCH if name in job.facts}
    return {**found, **_settings(job.workload, job.deterministic), **wanted}


@functools.cache
def _fingerprint(data: Path) -> str:
    from bench import dataset  # numpy and Pillow, which nothing else here needs

    return dataset.fingerprint(data)


def _settings(workload: Workload, deterministic: bool) -> dict[str, Any]:
    """What a run will set on its machine: a run that fails before it does so records it all the same."""
    settings: dict[str, Any] = {"cudnn_benchmark": False} if deterministic else {}
    if threads := workload.values["train"]["threads"]:
        settings["threads"] = threads
    return settings


def _show(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _free(results: Path) -> Path:
    """A folder name beside `results` that is not in use."""
    number = 2
    while (free := results.with_name(f"{results.name}-{number}")).exists():
        number += 1
    return free


# ------------------------------------------------------------------------------------------------ the matrix


def run(
    runs: Sequence[Run],
    display: Display,
    *,
    trainer: str = TRAINER,
    patience_s: float = PATIENCE_S,
) -> Result:
    """Train what the plan says, and tell `display`. Nothing that happens to a run stops the others.

    SIGINT or SIGTERM ends it after what trains has saved its checkpoint, or after `patience_s`; a second
    one kills the run. Raises BenchError, before anything is trained, where the results cannot be written.
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
    training: list[_Training] = []
    postponed = set()
    asked: float | None = None
    try:
        while training or (queue and not stop.requests):
            while queue and free and not stop.requests:
                if training and queue[0].job.key in postponed:
                    break
                job = replace(queue.popleft().job, all_cores=free[-1])
                begun = _begin(job, context, trainer, display)
                if isinstance(begun, _Training):
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


def lanes(workload: Workload, device: str, seat: Seat = ALONE) -> list[tuple[int, ...]]:
    """The cores of each run that may train at the same time; () is any core.

    On a CPU, as many runs as the workload says and the machine has cores for, each pinned to cores of its
    own, one a thread and a data worker: a small network gains little from a second thread but noise. Several
    devices of one run are pinned likewise, each to its own.
    """
    settings = workload.values["train"]
    width = seat.local_devices * (settings["threads"] + -(-settings["data_workers"] // seat.devices))
    usable = machine.usable_cores()
    count = min(settings["at_once"], len(usable) // width) if settings["threads"] else 1
    if seat.launched:  # in the order of the plan, so that all processes meet over one run
        count = min(count, 1)
    if device != "cpu" or count < (2 if seat.devices == 1 else 1):
        return [()]
    return [tuple(usable[lane * width : (lane + 1) * width]) for lane in range(count)]


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


class _Training:
    """A run that trains in processes of its own, one a device; `look`: what was there before."""

    def __init__(self, look: Run, lock: Lock | None, context: ForkServerContext, trainer: str) -> None:
        self.look, self._lock, job = look, lock, look.job
        self._exits = contextlib.ExitStack()
        self._seats = _find_seats(job, context, self._exits)  # a mailbox is gone with the last who holds it
        self.processes: list[ForkServerProcess] = []
        self._pipes: list[Connection] = []
        for seat in self._seats:
            receive, send = context.Pipe(duplex=False)
            name = "/".join(map(str, job.key))
            arguments = (trainer, replace(job, seat=seat), send, lock)
            process = context.Process(target=_train, args=arguments, name=name)
            process.start()
            send.close()
            self.processes.append(process)
            self._pipes.append(receive)
        self._open = list(self._pipes)  # those that may still tell something
        self._last_words: dict[int, BenchError] = {}
        self._broken: float | None = None  # when the first of several devices failed
        self._killed: set[int] = set()  # devices that were ended from here

    @property
    def sources(self) -> list[Any]:
        """What to wait for: news, or the end of a process."""
        return [*self._open, *(each.sentinel for each in self.processes if each.exitcode is None)]

    def has_ended(self, display: Display) -> bool:
        """Hand on what the processes have told since, and say whether all are gone.

        Where one has failed, or the first is gone, the others wait for it in vain: they are given a while,
        then ended. One that was asked to stop leaves the first to its checkpoint.
        """
        codes = [each.exitcode for each in self.processes]  # asked first, so that no word is missed
        for rank, pipe in enumerate(self._pipes):
            while pipe in self._open and pipe.poll():
                try:
                    message = pipe.recv()
                except (EOFError, OSError):  # it has nothing more to say, or was cut off in mid-word
                    self._open.remove(pipe)
                    break
                if isinstance(message, BenchError):
                    self._last_words[rank] = message
                elif rank == 0:
                    display.tell(self.look.job.key, message)
        if None not in codes:
            return True
        if self._broken is None and (codes[0] is not None or any(map(_has_failed, codes))):
            self._broken = time.monotonic()
        if self._broken is not None and time.monotonic() - self._broken > PEERS_S:
            self.kill()
        return False

    def terminate(self) -> None:
        """Ask all processes to stop."""
        for each in self.processes:
            each.terminate()

    def kill(self) -> None:
        """End all processes, whatever they do."""
        self._killed.update(rank for rank, each in enumerate(self.processes) if each.exitcode is None)
        for each in self.processes:
            each.kill()

    def close(self) -> None:
        """Wait for the processes, then let go of lock and pipes."""
        for process in self.processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        if self._lock is not None:
            self._lock.close()
        self._exits.close()

    def settle(self, *, stopped: bool) -> Outcome:
        """What became of the run; finishes the record where the processes could not."""
        for process in self.processes:
            process.join()
        codes = [process.exitcode or 0 for process in self.processes]
        try:
            if self.look.job.seat.rank:
                return _settle_aside(self.look.job, codes[0], self._last_words.get(0))
            for rank in self._killed:  # it says nothing about them that we have ended them
                codes[rank] = INTERRUPTED if codes[rank] == -signal.SIGKILL else codes[rank]
            return _settle(self.look, codes, self._last_words, stopped=stopped)
        except BenchError as error:
            return Outcome(self.look.job, "failed", None, error.message, error.hint)
        finally:
            self.close()


def _find_seats(job: Job, context: ForkServerContext, exits: contextlib.ExitStack) -> list[Seat]:
    """Of the processes of a run that start here; `exits` removes the folder in which GPUs meet."""
    if job.seat.launched:  # the others start theirs
        return [job.seat.at("/".join(map(str, job.key)))]
    if job.seat.devices == 1:
        return [ALONE]
    if job.device == "cpu":
        from bench.mailbox import Mailbox  # numpy, which nothing else here needs

        return on_this_machine(job.seat.devices, mailbox=Mailbox(context, job.seat.devices))
    folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="segbench-"))
    return on_this_machine(job.seat.devices, Path(folder))


def _begin(job: Job, context: ForkServerContext, trainer: str, display: Display) -> _Training | Outcome:
    """Lock the run's folder and start its process; or what became of the run instead."""
    try:
        if job.seat.rank:  # the first device keeps lock and record
            try:
                # for the log; the first may not have come so far
                job.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise record.unwritable(job.folder, error) from error
            display.start(job.key, resumed=False)
            return _Training(Run(job, "train", None), None, context, trainer)
        lock = Lock.take(job.folder)
        if lock is None:
            return Outcome(job, "taken")
        try:
            look = _look(job)  # another segbench may have trained it since the plan was made
            if look.action == "skip" and look.record is not None:
                lock.close()
                return Outcome(job, look.record["status"], look.record)
            doctor.keep(job.folder, job.examined, resumed=look.action == "resume")
            display.start(job.key, resumed=look.action == "resume")
            return _Training(look, lock, context, trainer)
        except BaseException:
            lock.close()
            raise
    except BenchError as error:
        return Outcome(job, "failed", None, error.message, error.hint)


def _alone(begun: Outcome) -> BenchError:
    """The error that ends this process, and so all that torchrun started: they would wait for it in vain."""
    is_taken = begun.status == "taken"
    why = begun.error or ("another segbench trains it" if is_taken else f"it is {begun.status} by now")
    hint = "wait for the other segbench" if is_taken else "start it on all machines again"
    return BenchError(f"{begun.job.folder}: {why}", begun.hint or hint)


def _settle(
    look: Run, codes: Sequence[int], last_words: Mapping[int, BenchError], *, stopped: bool
) -> Outcome:
    """What became of a run whose processes have ended; finishes the record where they could not."""
    job = look.job
    found = _read(job.folder)
    lost = _find_lost(codes, last_words)
    last_word = last_words.get(lost)
    ended = found if found != look.record and found is not None and found["status"] != "running" else None
    if ended is not None and not (lost and ended["status"] == "failed"):
        found = ended
        return Outcome(job, found["status"], found, found["error"], last_word.hint if last_word else "")
    if stopped and not lost:
        status, error = "interrupted", "stopped before it could save anything" if found is None else None
    else:
        status, error = "failed", last_word.message if last_word else _last_words(job, codes[lost])
        error = f"device {lost}: {error}" if lost else error
    facts = {name: value for name, value in job.facts.items() if name in record.FIELD}
    known = found or {**facts, **_identity(job)}
    found = record.blank(**{**known, "status": status, "error": error})
    with contextlib.suppress(BenchError):  # on a full disk the outcome is told and not kept
        record.write(job.folder, found)
    return Outcome(job, status, found, error, last_word.hint if last_word else "")


def _settle_aside(job: Job, code: int, last_word: BenchError | None) -> Outcome:
    """What became of a device's part of a run whose record is kept by another process."""
    status = {0: "finished", INTERRUPTED: "interrupted"}.get(code, "failed")
    error = last_word.message if last_word else _last_words(job, code) if status == "failed" else None
    return Outcome(job, status, None, error, last_word.hint if last_word else "")


def _find_lost(codes: Sequence[int], last_words: Mapping[int, BenchError]) -> int:
    """The device to name where one of several dies and the others fail of its silence: the first that was
    killed from outside or said why, else the first that failed at all."""
    failed = [rank for rank, code in enumerate(codes) if _has_failed(code)]
    return next((rank for rank in failed if codes[rank] < 0 or rank in last_words), (failed or [0])[0])


def _has_failed(code: int | None) -> bool:
    """Whether a process has ended, neither at its end nor because it was asked to."""
    return code not in (None, 0, INTERRUPTED)


def _last_words(job: Job, exitcode: int) -> str:
    """Why a process ended without saying so."""
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    with contextlib.suppress(OSError):
        lines = job.log.read_text(encoding="utf-8", errors="replace").split(_HEADLINE)[-1].splitlines()[1:]
        if words := [line.strip() for line in lines if line.strip()]:
            return words[-1]
    return f"its process ended with exit code {exitcode} and did not finish the record"


# ------------------------------------------------------------------------------------------------- processes


def _train(trainer: str, job: Job, send: Connection, lock: Lock | None) -> None:
    """The body of a run's process. `lock` is only held: the kernel lets go of it when the process is gone."""
    open_signals(leave)  # until the trainer takes them over there is nothing to save
    module = importlib.import_module(trainer)
    runner_lives = True

    def tell(progress: Progress) -> None:
        nonlocal runner_lives
        if runner_lives:
            try:
                send.send(progress)
            except OSError:  # the runner was killed: stop as if it had asked
                runner_lives = False
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        _log_to(job)
        module.train(job, tell)
    except module.Interrupted:
        sys.exit(INTERRUPTED)
    except BenchError as error:
        with contextlib.suppress(OSError):
            send.send(error)
        with contextlib.suppress(OSError):  # a full disk takes no log, either
            print(f"Error: {error.message}\nHint: {error.hint}", file=sys.stderr)
        sys.exit(error.code)


_HEADLINE = "=== "


def _log_to(job: Job) -> None:
    """Send all output of this process to the run's log, a crash of the interpreter included.

    BenchError: the disk is full or read-only.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    headline = f"{_HEADLINE}{now}  {job.command}  (process {os.getpid()})\n"
    try:
        handle = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, headline.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise record.unwritable(job.log, error) from error
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout = sys.stderr = os.fdopen(handle, "w", 1, encoding="utf-8", errors="backslashreplace")
    faulthandler.enable()


class Lock:
    """A run's folder, locked against other runners. Sent to a process it is held by both: the kernel frees it
    when the last holder has closed it or died, however it died."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, folder: Path) -> Self | None:
        """The lock, or None where somebody holds it. Makes the folder. BenchError: it cannot be locked."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise record.unwritable(folder, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise BenchError(
                f"cannot lock {folder}: {error.strerror}", "name a folder on a local disk with --results"
            ) from error
        return cls(handle)

    def close(self) -> None:
        os.close(self._handle)

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._handle)

    def __setstate__(self, sent: Any) -> None:
        self._handle = sent.detach()


class _Stop:
    """Counts SIGINT and SIGTERM instead of letting them cut something off half-way."""

    def __init__(self) -> None:
        self.requests = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._count) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.requests += 1
