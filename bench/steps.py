"""What every step gave: its loss, its learning rate, its milliseconds.

On a GPU losses and times stay on the device until the work that makes them is done: `drain` collects what is
ready and waits only when told to. On the CPU they are there at once.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import record

COLUMNS = ("loss", "lr", "ms")
MOST_ROWS = 1000  # of steps.csv


class Steps:
    """A table of `steps` rows, of which `done` are filled; `table` (steps, 3) float64 holds COLUMNS."""

    def __init__(self, steps: int, device: torch.device, filled: Tensor | None = None) -> None:
        self.table = torch.full((steps, len(COLUMNS)), torch.nan, dtype=torch.float64)
        self.done = 0 if filled is None else len(filled)
        if filled is not None:
            self.table[: self.done] = filled
        self.device = device
        self.bad: tuple[int, float] | None = None  # step and loss of the first loss that is not finite
        self._pending: deque[tuple[float, Tensor, Any, Any]] = deque()
        self._last: Any = None

    def begin(self) -> None:
        """The time of the next step starts now (after an evaluation, say), not where the last one ended."""
        self._last = self._mark()

    def end(self, loss: Tensor, lr: float) -> None:
        """A step has been issued; `loss` is a scalar on the device."""
        host = torch.empty((), dtype=loss.dtype, pin_memory=True) if loss.is_cuda else loss
        if loss.is_cuda:
            host.copy_(loss, non_blocking=True)
        now = self._mark()
        self._pending.append((lr, host, self._last, now))
        self._last = now

    def drain(self, wait: bool = False) -> tuple[int, float] | None:
        """Take over what is finished; (step, loss) of the first loss so far that is not finite, else None."""
        while self._pending:
            lr, host, start, end = self._pending[0]
            if self.device.type == "cuda":
                if not wait and not end.query():
                    break
                end.synchronize()
                ms = start.elapsed_time(end)
            else:
                ms = 1000 * (end - start)
            self._pending.popleft()
            loss = float(host)
            self.table[self.done] = torch.tensor((loss, lr, ms), dtype=torch.float64)
            if self.bad is None and not math.isfinite(loss):
                self.bad = (self.done, loss)
            self.done += 1
        return self.bad

    def filled(self) -> Tensor:
        """The rows so far, (done, 3)."""
        return self.table[: self.done].clone()

    def mean_loss(self, since: int) -> float:
        """Mean loss of the steps from `since` on."""
        return float(self.table[since : self.done, 0].mean())

    def ms_quantile(self, share: float) -> float:
        """A quantile of the step times so far, in milliseconds."""
        return float(torch.quantile(self.table[: self.done, 2], share))

    def write(self, path: Path) -> None:
        """steps.csv: every k-th step, at most MOST_ROWS rows; a float32 loss to its last bit."""
        stride = -(-len(self.table) // MOST_ROWS)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("step", *COLUMNS))
        for step in range(0, self.done, stride):
            loss, lr, ms = self.table[step].tolist()
            rows.writerow((step, f"{loss:.9g}", f"{lr:.6g}", f"{ms:.4g}"))
        record.write_atomic(path, text.getvalue())

    def _mark(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
