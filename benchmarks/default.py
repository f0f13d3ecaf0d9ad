"""Time and memory of the embedded default: 27 runs and the report.

    python benchmarks/default.py [--results DIR] [--out DIR] [--seeds 3]

Runs the README's main job in a fresh results folder, and prints wall-clock seconds of `segbench run` and
`segbench report` and the highest proportional set size (PSS) of all their processes together, read twice a
second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--results", type=Path)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SEGBENCH_CACHE"] = scratch  # the scenes are drawn anew, as on a fresh machine
        results = str(chosen.results or Path(scratch) / "results")
        out = str(chosen.out or Path(scratch) / "reports")
        run = measure("run", "--recipe", "all", "--seeds", str(chosen.seeds), "--results", results)
        report = measure("report", "--results", results, "--out", out)
    print(f"segbench run     {run[0]:7.1f} s   peak PSS {run[1]:6.0f} MiB")
    print(f"segbench report  {report[0]:7.1f} s   peak PSS {report[1]:6.0f} MiB")
    print(f"together         {run[0] + report[0]:7.1f} s   ({(run[0] + report[0]) / 60:.2f} min)")


def measure(*arguments: str) -> tuple[float, float]:
    """(wall seconds, peak PSS in MiB) of a segbench command and its processes. SystemExit where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "bench", *arguments])
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            peak[0] = max(peak[0], memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"segbench {' '.join(arguments)} ended with exit code {code}")
    return seconds, peak[0]


def memory(pid: int) -> float:
    """PSS of a process and its descendants, in MiB."""
    total = 0
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0.0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has just ended
    return total / 2**20


if __name__ == "__main__":
    main()
