"""Two live trainings, a revision each, that take steps in turn: the times of a pair of processes.

Neighbours of a shared machine slow both sides of a turn alike, so the turns are as short as can be, A B B A.
Both processes sit on one core, with one thread that sleeps when it waits: only one of them ever works, and no
core is faster than another. What differs from process to process, the layout of its memory, stays the same
for the whole life of a pair: so one measures many short pairs, each of fresh processes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from bench import CANNOT_JUDGE, BenchError, assets
from bench.revision import Revision

PROTOCOL = 1  # of bench/probe.py
WARM_UP = 5  # turns that are not counted
SECONDS, FEWEST, MOST = 4.0, 12, 60  # of the turns that are, as long as their number lies between
PATIENCE_S = 600.0  # for one answer
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Turn = Mapping[str, float]  # seconds by part: "step", on a GPU also "batch"


@dataclass(frozen=True)
class Task:
    """What both sides train, by names or paths as `segbench run` takes them, on one of `cores`; none: any."""

    recipe: str
    workload: str
    data: str | None
    weights: str | None
    device: str
    cores: tuple[int, ...] = ()

    def asked(self, number: int) -> dict[str, Any]:
        """What the probes of pair `number` are asked for: each pair has a seed of its own, and its turn on
        each core."""
        core = self.cores[number // 2 % len(self.cores)] if self.cores else None
        kept = {name: value for name, value in vars(self).items() if name != "cores"}
        return {**kept, "core": core, "seed": number}


@dataclass(frozen=True)
class Pair:
    """What the sides said of themselves, and their steps, in the order in which they were taken."""

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    old_turns: tuple[Turn, ...]
    new_turns: tuple[Turn, ...]

    def medians(self, part: str) -> tuple[float, float]:
        """Median seconds of a part of the turn: of the old side, of the new."""
        old, new = (median(turn[part] for turn in turns) for turns in (self.old_turns, self.new_turns))
        return old, new


def measure(old: Revision, new: Revision, task: Task, number: int) -> Pair:
    """Pair `number`; the new side begins in every second one.

    BenchError, code 4: a side cannot be measured, or died.
    """
    with contextlib.ExitStack() as exits:
        sides = [exits.enter_context(Probe(each, task.asked(number))) for each in (old, new)]
        introduced = [side.meet() for side in sides]
        rounds = _take_turns(sides[0], sides[1], new_first=number % 2 == 1)
        before = [next(rounds) for _ in range(WARM_UP)]
        usual = median(sum(old.values()) + sum(new.values()) for old, new in before)
        counted = list(itertools.islice(rounds, min(MOST, max(FEWEST, round(SECONDS / usual)))))
    return Pair(introduced[0], introduced[1], tuple(a for a, _ in counted), tuple(b for _, b in counted))


def _take_turns(old: Probe, new: Probe, *, new_first: bool) -> Iterator[tuple[Turn, Turn]]:
    """A step of each side, old and new, and so on; who was second begins the next."""
    while True:
        if new_first:
            second = new.take_step()
            yield old.take_step(), second
        else:
            yield old.take_step(), new.take_step()
        new_first = not new_first


class Probe:
    """The process of one side: bench/probe.py with the package of `revision`."""

    def __init__(self, revision: Revision, asked: Mapping[str, Any]) -> None:
        self.revision = revision
        own = revision.root / "bench" / "probe.py"
        script = own if own.is_file() else assets.PACKAGE / "probe.py"
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # -P, or the folder of the script, which holds the modules of bench, would come first on the path
        self._process = subprocess.Popen(
            [revision.python, "-P", str(script)],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(_path(revision))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver, which ends its probes
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._tell(json.dumps(asked))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._out, self._log):
            file.close()
        with contextlib.suppress(BrokenPipeError):
            self._in.close()

    def meet(self) -> dict[str, Any]:
        """What the side says of itself, once it is ready for its first step. BenchError, code 4: it is not
        this revision, or speaks another language."""
        words = self.listen()
        if words.get("protocol") != PROTOCOL:
            raise self._unfit(f"its probe speaks protocol {words.get('protocol')}, this one {PROTOCOL}")
        package = Path(str(words.get("package"))).resolve()
        if package != (self.revision.root / "bench").resolve():
            raise self._unfit(f"it holds no package bench; {package} answered instead")
        return words

    def take_step(self) -> Turn:
        """Seconds of the next step, by part."""
        self._tell("")
        turn = self.listen()
        if not turn or not all(isinstance(each, float) and each > 0 for each in turn.values()):
            raise self._unfit(f"its probe says that a step took {turn!r}")
        return turn

    def listen(self) -> dict[str, Any]:
        """The next answer. BenchError, code 4: there is none, or it is that nothing more can be done."""
        if not connection.wait([self._out.fileno()], PATIENCE_S):
            raise self._unfit(f"its probe has said nothing for {PATIENCE_S:.0f} s")
        line = self._out.readline()
        if not line:
            raise self._unfit(self._last_words())
        try:
            words = json.loads(line)
            error = words.get("error")
        except (ValueError, AttributeError):
            raise self._unfit(f"its probe says {line.strip()[:80]!r}") from None
        if error:
            raise self._unfit(str(error), str(words.get("hint") or ""))
        return dict(words)

    def _tell(self, line: str) -> None:
        try:
            print(line, file=self._in, flush=True)
        except BrokenPipeError:
            raise self._unfit(self._last_words()) from None

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"its probe was killed by {name}" + ", perhaps for want of memory" * (name == "SIGKILL")
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else f"its probe ended with exit code {code}"

    def _unfit(self, why: str, hint: str = "") -> BenchError:
        return BenchError(f"{self.revision.name} cannot be measured: {why}", hint, CANNOT_JUDGE)


def _path(revision: Revision) -> list[str]:
    """Where the probe looks for packages: in its revision, then where this process does, if it has the same
    environment."""
    ours = os.environ.get("PYTHONPATH") if revision.python == sys.executable else None
    return [str(revision.root), *filter(None, [ours])]
