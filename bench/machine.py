"""What the machine is, and what it did while a run trained.

A thread reads sensors a few times a second and never touches CUDA. As with the clock, each interval between
two readings lies in exactly one phase, because every change of phase ends one: counters (energy, CPU time)
and averages therefore cover train time and nothing else. What cannot be read is null with a reason.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, BinaryIO

import psutil

from bench import __version__, nvml, record

OTHERS = 0.05  # of the run's cores; what other programs may take before a timing is in doubt
NO_SAMPLE = "no sample fell into train time"
Summary = tuple[dict[str, float | None], dict[str, str], list[str]]
COLUMNS = (
    "t", "phase", "device", "busy_pct", "sm_active_pct", "memory_mib",
    "power_w", "temperature_c", "sm_clock_mhz", "throttled",
)  # fmt: skip

# The maker's dense peaks, TFLOP/s: pattern of the name -> float32 (no tensor cores), tf32, half (fp16, with
# float32 accumulation, and bf16). None: the device has no such unit. A MIG slice matches nothing.
# Written down from memory: no data sheet was opened. Only A100, H200 (float32, half), L40S and L4 were held
# against tables of third parties: within 2 %, L4 within 4 %. Check a row before quoting mfu_nominal_pct.
PEAKS: tuple[tuple[str, float, float | None, float], ...] = (
    (r"V100-SXM2-\d+GB", 15.7, None, 125.0),  # Volta has no tf32 and no bf16
    (r"V100-PCIE-\d+GB", 14.0, None, 112.0),
    (r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe", 19.5, 156.0, 312.0),
    (r"H100 80GB HBM3", 66.9, 494.7, 989.4),
    (r"H100 PCIe", 51.2, 378.0, 756.0),
    (r"H200", 67.0, 494.7, 989.4),
    (r"A10", 31.2, 62.5, 125.0),
    (r"L4", 30.3, 60.0, 121.0),
    (r"L40S", 91.6, 183.0, 362.05),
    (r"GeForce RTX 3090", 35.6, 35.6, 71.0),
    (r"GeForce RTX 4090", 82.6, 82.6, 165.2),
)


def nominal_peak_tflops(gpu_name: str, precision: str) -> float | None:
    """The maker's dense peak of one device in TFLOP/s; None: not known, or not a precision of that device.

    `precision` is float32 (products not rounded), tf32, fp16 or bf16. ValueError: another one.
    """
    if precision not in ("float32", "tf32", "fp16", "bf16"):
        raise ValueError(f"no precision {precision!r}")
    name = re.sub(r"^(NVIDIA |Tesla )+", "", gpu_name)
    for pattern, float32, tf32, half in PEAKS:
        if re.fullmatch(pattern, name):
            if precision == "bf16" and tf32 is None:
                return None
            return {"float32": float32, "tf32": tf32}.get(precision, half)
    return None


def host_facts() -> dict[str, Any]:
    """The record's `python cpu cores os host segbench_version git_commit git_dirty`; None: unknown."""
    commit, dirty = _checkout()
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return {
        "python": platform.python_version(),
        "cpu": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "os": platform.platform() or None,
        "host": platform.node() or None,
        "segbench_version": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Name of the processor; ARM kernels give none."""
    try:
        found = re.search(r"^model name\s*:\s*(.+?)\s*$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or None


def _checkout(package: Path = Path(__file__).parent) -> tuple[str | None, bool | None]:
    """Commit of the checkout that holds `package`, and whether package or recipes differ from it.

    (None, None) without git, and for a package that is only installed somewhere inside another checkout.
    Results and reports beside the code make nothing dirty: no run depends on them.
    """
    # A git hook's GIT_DIR would point at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "--no-optional-locks", "-C", str(package), *arguments),
            env=environment, capture_output=True, text=True, check=True, timeout=30,
        ).stdout  # fmt: skip

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD").strip()
        return commit, bool(git("status", "--porcelain", "--", ".", ":/recipes").strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


@dataclass
class Tally:
    """A quantity over train time: `total` sums up value x seconds, over the `seconds` it is known for."""

    total: float = 0.0
    seconds: float = 0.0
    peak: float = 0.0

    def add(self, value: float, seconds: float) -> None:
        self.total += value * seconds
        self.seconds += seconds
        self.peak = max(self.peak, value)

    def mean(self) -> float:
        return self.total / self.seconds


# Field of the record -> quantity of a device, its figure there, the figure over all devices.
GPU_FIELDS: Mapping[str, tuple[str, Callable[[Tally], float], Callable[[list[float]], float]]] = {
    "gpu_busy_pct": ("busy_pct", Tally.mean, fmean),
    "gpu_sm_active_pct": ("sm_active_pct", Tally.mean, fmean),
    "gpu_memory_peak_mib": ("memory_mib", lambda tally: tally.peak, max),
    "gpu_power_w": ("power_w", Tally.mean, sum),
    "gpu_energy_kj": ("energy_kj", lambda tally: tally.total, sum),
    "gpu_throttled_s": ("throttled", lambda tally: tally.total, max),
}


class Telemetry:
    """Samples the machine into `path` (telemetry.csv) and sums up over train time.

    `uuids` are those of the run's CUDA devices here, in CUDA's order. A resumed run hands in the `state` of
    its checkpoint: sums and the column t go on from there, and later rows, whose work was lost, are dropped.
    `others` are the process numbers of the run's other devices here, `cores` those of the run where they are
    not this process's. `now` returns monotonic seconds. BenchError: `path` cannot be written.
    """

    def __init__(
        self,
        path: Path,
        uuids: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
        now: Callable[[], float] = time.perf_counter,
        others: Sequence[int] = (),
        cores: Sequence[int] = (),
    ) -> None:
        state = {"t": 0.0, "train_s": 0.0, "tallies": {}, "warnings": [], **(state or {})}
        self._now = now
        self._began = now() - state["t"]
        self._train_s = float(state["train_s"])
        self._tallies = {key: Tally(*values) for key, values in state["tallies"].items()}
        self._warnings = set(state["warnings"])
        self._phase = "setup"
        self._since: float | None = None  # where the open interval starts
        self._cpu: tuple[float, float, float] | None = None
        self._others = others
        # of the cores of a run beside this one nothing is told
        self._cores = sorted(cores or os.sched_getaffinity(0))
        self._energy: dict[str, float] = {}
        self._processes: list[psutil.Process] = [psutil.Process()]
        self._memory_due = now()
        self._memory_problem: str | None = None
        self._rows = open_rows(path, state["t"])
        self._gpus = nvml.Gpus(uuids, now)
        self._period = 0.5 if self._gpus.devices else 1.0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)

    def start(self) -> None:
        """Start the thread that samples."""
        self._look_for_others()
        self._thread.start()

    def _watch(self) -> None:
        self.sample()
        while not self._stopping.wait(self._period):
            self.sample()

    def sample(self) -> None:
        """Read every sensor once: what the thread does each period."""
        began = time.thread_time()
        memory = self._read_memory() if self._now() >= self._memory_due else None  # slow: not under the lock
        with self._lock:
            training = self._phase == "train"
            self._close(memory)
            if training:
                self._tally("cost").total += time.thread_time() - began

    def enter(self, phase: str) -> None:
        """The clock goes over to `phase`; what was measured until now belongs to the phase before.

        Takes milliseconds: enter `train` here before the clock does, and any other phase after it.
        """
        # A run shorter than a period has no reading of its memory yet.
        unread = self._phase == "train" and not self._tally("memory_mib").seconds
        memory = self._read_memory() if unread else None
        with self._lock:
            self._close(memory)
            self._phase = phase

    def state(self) -> dict[str, Any]:
        """The sums up to now, for the checkpoint (JSON)."""
        with self._lock:
            self._close(None)
            return {
                "t": self._now() - self._began,
                "train_s": self._train_s,
                "tallies": {key: list(astuple(tally)) for key, tally in self._tallies.items()},
                "warnings": sorted(self._kept_warnings()),
            }

    def stop(self) -> None:
        """End the thread, close the file and NVML. The summary stays. A second call does nothing."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._close(None)
            self._look_for_others()
            self._gpus.close()
            self._rows.close()

    def summary(self) -> Summary:
        """The record's hardware fields over train time; field -> why it is null; names of its warnings."""
        with self._lock:
            figures: dict[str, float | str] = {
                **{field: self._gpu_figure(field) for field in GPU_FIELDS},
                "cpu_busy_pct": self._cpu_figure(),
                "memory_peak_mib": self._memory_figure(),
                "telemetry_cost_pct": (
                    100 * self._tally("cost").total / self._train_s if self._train_s else NO_SAMPLE
                ),
            }
            doubts = self._kept_warnings()
            others = self._tally("others_cores")
            if others.seconds and others.mean() > OTHERS * len(self._cores):
                doubts.add("machine_busy")
            throttled = figures["gpu_throttled_s"]
            if not isinstance(throttled, str) and throttled > 0.01 * self._train_s:
                doubts.add("throttled")
        values = {field: None if isinstance(figure, str) else figure for field, figure in figures.items()}
        reasons = {field: figure for field, figure in figures.items() if isinstance(figure, str)}
        return values, reasons, [name for name in record.WARNINGS if name in doubts]

    def _gpu_figure(self, field: str) -> float | str:
        """The value of a GPU field, or why it is unknown."""
        quantity, of_device, of_all = GPU_FIELDS[field]
        if self._gpus.problem:
            return self._gpus.problem
        values = []
        for gpu in self._gpus.devices:
            tally = self._tally(f"{gpu.name} {quantity}")
            if not tally.seconds:
                return f"{gpu.name}: {gpu.sensors[quantity].problem or NO_SAMPLE}"
            values.append(of_device(tally))
        return float(of_all(values))

    def _cpu_figure(self) -> float | str:
        cores = self._tally("cpu_busy_pct")
        return cores.mean() if cores.seconds else NO_SAMPLE

    def _memory_figure(self) -> float | str:
        memory = self._tally("memory_mib")
        return memory.peak if memory.seconds else self._memory_problem or NO_SAMPLE

    def _kept_warnings(self) -> set[str]:
        """Doubts that a resumed run inherits."""
        stopped = any(sensor.stopped for gpu in self._gpus.devices for sensor in gpu.sensors.values())
        return self._warnings | ({"telemetry_stopped"} if stopped else set())

    def _look_for_others(self) -> None:
        if self._gpus.shared({process.pid for process in _family(self._others)}):
            self._warnings.add("gpu_shared")

    def _tally(self, key: str) -> Tally:
        return self._tallies.setdefault(key, Tally())

    def _count(self, key: str, value: float | None, seconds: float) -> None:
        """Add to a sum, if the interval that ends is one of training."""
        if self._phase == "train" and value is not None and seconds > 0:
            self._tally(key).add(value, seconds)

    def _close(self, memory: float | None) -> None:
        """End the open interval: read, add up, write a row a device, and open the next. Under the lock."""
        if self._rows.closed:  # stopped
            return
        instant = self._now()
        seconds = 0.0 if self._since is None else instant - self._since
        self._since = instant
        if self._phase == "train":
            self._train_s += seconds
        self._count("memory_mib", memory, seconds)
        rows: list[tuple[str, dict[str, float | None]]] = [
            ("cpu", {"busy_pct": self._close_cpu(seconds), "memory_mib": memory})
        ]
        for gpu in self._gpus.devices:
            values = gpu.read()
            self._count_energy(gpu.name, values.pop("energy_kj"), seconds)
            for quantity, value in values.items():
                self._count(f"{gpu.name} {quantity}", value, seconds)
            rows.append((gpu.name, values))
        self._write(instant - self._began, rows)

    def _count_energy(self, device: str, reading: float | None, seconds: float) -> None:
        """`reading` is a counter in kJ; it counts as a rate, so that rate x seconds is the energy."""
        before = self._energy.get(device)
        if reading is not None:
            self._energy[device] = reading
            if before is not None and seconds > 0:
                self._count(f"{device} energy_kj", (reading - before) / seconds, seconds)

    def _close_cpu(self, seconds: float) -> float | None:
        """Share of all cores that was busy since the last reading, %; None where no tick went by."""
        before, self._cpu = self._cpu, (*core_seconds(self._cores), _own_seconds(self._processes))
        if before is None:
            return None
        busy, total, own = (now - then for now, then in zip(self._cpu, before, strict=True))
        if seconds > 0:
            self._count("others_cores", (busy - own) / seconds, seconds)
        if total <= 0:
            return None
        self._count("cpu_busy_pct", 100 * busy / total, total)
        return 100 * busy / total

    def _read_memory(self) -> float | None:
        """Proportional set size of this process and its descendants, MiB."""
        began = time.thread_time()
        self._processes = _family(self._others)
        try:
            memory = _proportional_mib(self._processes)
        except (psutil.AccessDenied, AttributeError) as error:
            self._memory_problem = f"no proportional set size: {error}"
            memory = None
        # The kernel walks all page tables for it, 16 ms a GiB: no more than half a per cent of the time.
        self._memory_due = self._now() + max(1.0, 200 * (time.thread_time() - began))
        return memory

    def _write(self, t: float, rows: list[tuple[str, dict[str, float | None]]]) -> None:
        lines = []
        for device, values in rows:
            cells = [values.get(column) for column in COLUMNS[3:]]
            if any(cell is not None for cell in cells):
                numbers = ("" if cell is None else f"{cell:.6g}" for cell in cells)
                lines.append(",".join((f"{t:.3f}", self._phase, device, *numbers)) + "\n")
        try:
            self._rows.write("".join(lines).encode())
        except OSError:  # a full disk ends the rows, not the run
            self._warnings.add("telemetry_stopped")


class NoTelemetry:
    """What a device of the run has that is not the first of its machine: nothing is measured twice."""

    def start(self) -> None: ...

    def enter(self, phase: str) -> None: ...

    def stop(self) -> None: ...

    def state(self) -> dict[str, Any] | None:
        return None

    def summary(self) -> Summary | None:
        return None


def open_rows(path: Path, until: float) -> BinaryIO:
    """`path` with its header and the rows up to `until` (s), opened to append. BenchError: cannot be."""
    kept = [",".join(COLUMNS)]
    if until > 0 and path.exists():
        rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:])
        kept += [",".join(row) for row in rows if len(row) == len(COLUMNS) and float(row[0]) <= until]
    record.write_atomic(path, "\n".join(kept) + "\n")
    try:
        return path.open("ab", buffering=0)  # a row that fails must not wait for the next
    except OSError as error:
        raise record.unwritable(path, error) from error


def _family(others: Sequence[int] = ()) -> list[psutil.Process]:
    """This process, those of the run's other devices, and all their descendants."""
    found = []
    for pid in (None, *others):
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _proportional_mib(processes: Sequence[psutil.Process]) -> float:
    """Memory of `processes`, shared pages counted once. AttributeError, AccessDenied: not told here."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return total / nvml.MIB


def usable_cores(topology: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The cores that this process may use, one of each physical core first."""
    usable = sorted(os.sched_getaffinity(0))
    firsts: dict[str, int] = {}
    for core in usable:
        try:
            siblings = topology / f"cpu{core}" / "topology" / "thread_siblings_list"
            firsts.setdefault(siblings.read_text(encoding="ascii"), core)
        except OSError:
            firsts.setdefault(str(core), core)
    return sorted(usable, key=lambda core: (core not in firsts.values(), core))


def core_seconds(cores: Sequence[int]) -> tuple[float, float]:
    """Seconds of `cores` since boot, added up: busy, and all. What a hypervisor took away is not busy."""
    every = [times._asdict() for times in psutil.cpu_times(percpu=True)]
    ours = [every[core] for core in cores if core < len(every)] or every
    total = idle = 0.0
    for times in ours:
        total += sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)  # in user, nice
        idle += sum(times.get(name, 0.0) for name in ("idle", "iowait", "steal"))
    return total - idle, total


def _own_seconds(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of `processes`, this one first, and of their children that have ended."""
    total = sum(os.times()[:4])
    for process in processes[1:]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:  # ended: its time is in its parent's
            continue
    return total
