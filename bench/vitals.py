"""What the host is like at this moment: clock governor, other programs, memory, disk.

Telemetry (machine.py) watches a run; this looks once, before one. What cannot be read is None.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from bench import machine, nvml, record

CPUFREQ = Path("/sys/devices/system/cpu")
READ_S = 0.3  # how long a disk is read at most
SCRATCH_MIB = 16


class Window:
    """What others did on the usable cores between its making and `close`."""

    def __init__(self) -> None:
        self._cores = machine.usable_cores()
        self._before = self._read()

    def close(self) -> tuple[float | None, float | None]:
        """Share of the cores that other programs took, and the share of the time that was worked or wanted
        which a hypervisor gave to other machines; %. None: too short to tell."""
        busy, total, own, stolen = (now - then for now, then in zip(self._read(), self._before, strict=True))
        others = 100 * max(0.0, busy - own) / total if total > 0 else None
        return others, 100 * stolen / (busy + stolen) if busy + stolen > 0 else None

    def _read(self) -> tuple[float, float, float, float]:
        every = psutil.cpu_times(percpu=True)
        stolen = sum(getattr(every[core], "steal", 0.0) for core in self._cores if core < len(every))
        return *machine.core_seconds(self._cores), sum(os.times()[:4]), stolen


def governors(cpufreq: Path = CPUFREQ) -> list[str]:
    """How the kernel chooses the clocks of the usable cores; none where it does not, as on most virtual
    machines."""
    found = set()
    for core in machine.usable_cores():
        try:
            found.add((cpufreq / f"cpu{core}" / "cpufreq" / "scaling_governor").read_text().strip())
        except OSError:
            continue
    return sorted(found)


def memory_mib() -> tuple[float, float]:
    """Memory that programs may still take, and all of it."""
    memory = psutil.virtual_memory()
    return memory.available / nvml.MIB, memory.total / nvml.MIB


def free_mib(folder: Path) -> float:
    """Free space of the disk that `folder` lies on, or would lie on."""
    return float(psutil.disk_usage(str(standing(folder))).free) / nvml.MIB


def standing(folder: Path) -> Path:
    """`folder`, or the nearest path above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def read_files(files: Iterable[Path], seconds: float = READ_S) -> tuple[int, float, float]:
    """Read files one after the other for so long: how many, MiB, seconds.

    The system is asked to forget what it holds of each before the clock starts; a file system in memory does
    not. OSError: one cannot be read.
    """
    count, size, taken = 0, 0, 0.0
    for path in files:
        with path.open("rb", buffering=0) as file:
            forget(file.fileno())
            began = time.perf_counter()
            size += len(file.read())
        taken += time.perf_counter() - began
        count += 1
        if taken >= seconds:
            break
    return count, size / nvml.MIB, taken


def write_and_read(folder: Path) -> tuple[float, float]:
    """Speed of a file of some MiB in `folder` (or above it, where it is not there): written to the disk, and
    read back; MiB/s. BenchError: nothing can be written there."""
    content = os.urandom(SCRATCH_MIB * nvml.MIB)  # some file systems compress
    place = standing(folder)
    try:
        with tempfile.NamedTemporaryFile(prefix=".doctor.", dir=place, buffering=0) as file:
            began = time.perf_counter()
            file.write(content)
            os.fsync(file.fileno())
            written = time.perf_counter() - began
            _, mib, read = read_files([Path(file.name)])
    except OSError as error:
        raise record.unwritable(place, error) from error
    return SCRATCH_MIB / written, mib / read


def forget(handle: int) -> None:
    """Ask the system to drop what it keeps in memory of an open file."""
    if hasattr(os, "posix_fadvise"):  # not on every system
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
