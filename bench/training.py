"""A run that trains in processes of its own, one a device: begun, listened to, and settled at its end.

What happens to a process stays with its run: whatever ended it, there is an outcome, and a record that says
so. A lock on the run's folder, held by the process that trains and by this one, keeps two matrices from
training one run.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import faulthandler
import fcntl
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Self

from bench import INTERRUPTED, BenchError, doctor, matrix, record
from bench.matrix import Job, Run
from bench.progress import Display, Progress
from bench.seat import ALONE, Seat, on_this_machine
from bench.server import leave, open_signals

PEERS_S = 10.0  # how long the other devices of a run may take to notice that one has failed


@dataclass(frozen=True)
class Outcome:
    """What became of a run. `status` is the record's, or "taken": another segbench is training it."""

    job: Job
    status: str
    record: Mapping[str, Any] | None = None
    error: str | None = None
    hint: str = ""


class Training:
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


def begin(job: Job, context: ForkServerContext, trainer: str, display: Display) -> Training | Outcome:
    """Lock the run's folder and start its process; or what became of the run instead."""
    try:
        if job.seat.rank:  # the first device keeps lock and record
            try:  # for the log; the first may not have come so far
                job.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise record.unwritable(job.folder, error) from error
            display.start(job.key, resumed=False)
            return Training(Run(job, "train", None), None, context, trainer)
        lock = Lock.take(job.folder)
        if lock is None:
            return Outcome(job, "taken")
        try:
            look = matrix.look(job)  # another segbench may have trained it since the plan was made
            if look.action == "skip" and look.record is not None:
                lock.close()
                return Outcome(job, look.record["status"], look.record)
            doctor.keep(job.folder, job.examined, resumed=look.action == "resume")
            display.start(job.key, resumed=look.action == "resume")
            return Training(look, lock, context, trainer)
        except BaseException:
            lock.close()
            raise
    except BenchError as error:
        return Outcome(job, "failed", None, error.message, error.hint)


def _settle(
    look: Run, codes: Sequence[int], last_words: Mapping[int, BenchError], *, stopped: bool
) -> Outcome:
    """What became of a run whose processes have ended; finishes the record where they could not."""
    job = look.job
    found = matrix.find_record(job.folder)
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
    known = found or {**facts, **matrix.identity(job)}
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
