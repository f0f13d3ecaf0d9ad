"""segbench: what does each rung of a segmentation recipe cost, and what does it gain?

>>> import bench
>>> runs = bench.load("results/reference")          # a pandas.DataFrame, one row a run
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["BenchError", "__version__", "load"]
__version__ = "0.1.0"

REGRESSION, CANNOT_JUDGE, INTERRUPTED = 3, 4, 130  # exit codes, beside 0 fine, 1 error and 2 usage
# What asks to stop: Ctrl-C, a scheduler, a terminal that goes away; the last nohup has us ignore.
STOPS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    STOPS.append(signal.SIGHUP)


class BenchError(Exception):
    """Something the user can mend: what is wrong, and what to do next.

    `code` is the exit code of the command line.
    """

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __reduce__(self) -> tuple[type[BenchError], tuple[str, str, int]]:
        return type(self), (self.message, self.hint, self.code)


def load(results: str | Path) -> pandas.DataFrame:
    """All records below `results`, one row a run; the columns are those of `bench.record.FIELDS`."""
    from bench import record  # pandas is slow to import, and most commands need none

    return record.load(Path(results))
