"""A clock that is always in exactly one phase, so that phases add up to wall time by construction.

Time goes to the phase that is current; `enter` closes one phase and opens the next at the same instant.
`wait` (a device sync) is called just before each reading, so that work queued in a phase is paid in it.
The readings are monotonic and travel in the checkpoint: `state` and `Clock(state=...)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

PHASES = ("setup", "train", "eval", "checkpoint")


class Clock:
    """Seconds a phase. Starts in `setup` at `started`, or now.

    `now` returns monotonic seconds; `wait` blocks until the device is idle.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        wait: Callable[[], None] = lambda: None,
        state: Mapping[str, float] | None = None,
        started: float | None = None,
    ) -> None:
        self._now = now
        self.wait = wait
        self._seconds = dict.fromkeys(PHASES, 0.0)
        if state is not None:
            self._seconds.update({phase: float(state[phase]) for phase in PHASES})
        self.phase = "setup"
        self._since = now() if started is None else started

    def enter(self, phase: str) -> None:
        """Go over to `phase`. ValueError: no such phase."""
        if phase not in PHASES:
            raise ValueError(f"no phase {phase!r}; phases are {', '.join(PHASES)}")
        self.wait()
        instant = self._now()
        self._seconds[self.phase] += instant - self._since
        self.phase, self._since = phase, instant

    def state(self) -> dict[str, float]:
        """Seconds a phase up to now, the open phase included (without waiting for the device)."""
        seconds = dict(self._seconds)
        seconds[self.phase] += self._now() - self._since
        return seconds

    def seconds(self, phase: str) -> float:
        """Seconds spent in `phase` up to now."""
        return self.state()[phase]

    def wall(self) -> float:
        """Seconds of all phases together."""
        return sum(self.state().values())
