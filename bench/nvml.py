"""What the GPUs of a run are doing, read through NVML: devices found by UUID, one sensor a quantity.

CUDA and NVML number devices differently, so a device is found by its UUID and by nothing else. A sensor
that is refused keeps the driver's reason and is not asked again; it never gives 0 for unknown, and it
never raises. Calls and constants are those of `nvidia-ml-py` (module `pynvml`), taken by name.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from statistics import fmean
from typing import Any

MIB = 2**20
GPM_GAP_S = 0.1  # two GPM samples must lie more than 100 ms apart to be compared (NVML reference)
SILENT_READS = 5  # a call that answered this often without a value will not give one
HELD_DOWN = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")

Call = tuple[str, Callable[[], float | None]]  # name of the NVML function, what to ask (None: nothing new)


def driver_version() -> tuple[str | None, str | None]:
    """Version of the NVIDIA driver, or None and why it is unknown."""
    nvml, problem = _open()
    if nvml is None:
        return None, problem
    try:
        version = str(nvml.nvmlSystemGetDriverVersion())
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        return None, f"nvmlSystemGetDriverVersion: {error}"
    return version, None


def count() -> int:
    """GPUs that the driver knows, whether CUDA may use them or not; 0 where there is no driver to ask."""
    nvml, _ = _open()
    if nvml is None:
        return 0
    try:
        found = int(nvml.nvmlDeviceGetCount())
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return 0
    return found


def _open() -> tuple[Any, str | None]:
    """The library, initialised, or None and why not."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, "nvidia-ml-py is not installed"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"nvmlInit: {error}"
    return nvml, None


class Gpus:
    """The devices of a run; `devices[i]`, named `gpu<i>`, is CUDA's device i, whose UUID is `uuids[i]`
    (as torch prints it, or with NVML's prefix `GPU-` or `MIG-`). `now` returns monotonic seconds.

    `problem` says why there is no device to read; None: every UUID was found.
    """

    def __init__(self, uuids: Sequence[str], now: Callable[[], float]) -> None:
        self.devices: list[Gpu] = []
        self.problem: str | None = "the run used no GPU"
        self._nvml: Any = None
        if not uuids:
            return
        self._nvml, self.problem = _open()
        for index, uuid in enumerate(uuids if self._nvml else ()):
            try:
                self.devices.append(Gpu(self._nvml, f"gpu{index}", uuid, now))
            except (self._nvml.NVMLError, LookupError) as error:
                # Figures are sums and means over all devices: without one of them there are none.
                self.devices, self.problem = [], f"gpu{index} ({uuid}): {error}"
                return

    def shared(self, own: Collection[int]) -> bool:
        """Whether other compute processes are on a device than those of `own`. Slow: milliseconds each."""
        return any(_others(self._nvml, gpu.handle, own) for gpu in self.devices if self._nvml)

    def look(self, own: Collection[int]) -> list[dict[str, Any]]:
        """What each device is like at this moment, as `doctor` judges it; null where NVML does not tell.

        Asked while kernels run: an idle device has low clocks and no reason for them. `own`: see `shared`.
        """
        return [_look(self._nvml, gpu, own) for gpu in self.devices]

    def close(self) -> None:
        """Give everything back to NVML."""
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):  # a lost GPU refuses even that
                for gpu in self.devices:
                    gpu.sm_activity.free()
                self._nvml.nvmlShutdown()
            self._nvml = None


class Gpu:
    """One device and its sensors. LookupError: the UUID does not name one device; NVMLError: not found."""

    def __init__(self, nvml: Any, name: str, uuid: str, now: Callable[[], float]) -> None:
        self.name = name
        self.handle, mig = _find(nvml, uuid)
        self.sm_activity = SmActivity(nvml, self.handle, mig, now)
        where = " on a MIG device" if mig else ""
        self.sensors = {
            quantity: Sensor(nvml, calls, where)
            for quantity, calls in _calls(nvml, self.handle, self.sm_activity).items()
        }

    def read(self) -> dict[str, float | None]:
        """Quantity -> value now, or since the last reading; None: unknown."""
        return {quantity: sensor.read() for quantity, sensor in self.sensors.items()}


def _find(nvml: Any, uuid: str) -> tuple[Any, bool]:
    """The handle of a CUDA device, and whether it is a MIG device. torch gives UUIDs without prefix."""
    if not uuid.startswith(("GPU-", "MIG-")):
        try:
            return _find(nvml, f"GPU-{uuid}")
        except nvml.NVMLError:
            return _find(nvml, f"MIG-{uuid}")
    handle, mig = nvml.nvmlDeviceGetHandleByUUID(uuid), uuid.startswith("MIG-")
    if not mig and _is_cut(nvml, handle):
        # The card's figures are those of all its MIG devices together.
        raise LookupError("the card is cut into MIG devices, and CUDA did not say which one it used")
    return handle, mig


def _is_cut(nvml: Any, card: Any) -> bool:
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(card)
    except nvml.NVMLError:  # a card that knows no MIG
        return False
    return bool(mode == nvml.NVML_DEVICE_MIG_ENABLE)


def _calls(nvml: Any, handle: Any, sm_activity: SmActivity) -> dict[str, list[Call]]:
    """Quantity -> the calls that can give it, best first."""

    def ask(name: str, *arguments: Any, scale: float = 1) -> Call:
        return name, lambda: getattr(nvml, name)(handle, *arguments) / scale

    return {
        "busy_pct": [
            ("nvmlDeviceGetSamples", UtilisationBuffer(nvml, handle)),
            ("nvmlDeviceGetUtilizationRates", lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        ],
        "sm_active_pct": [("nvmlGpmMetricsGet", sm_activity)],
        # Version 2 leaves out what the driver keeps for itself, as nvidia-smi does.
        "memory_mib": [
            (
                "nvmlDeviceGetMemoryInfo",
                lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used / MIB,
            )
        ],
        "power_w": [ask("nvmlDeviceGetPowerUsage", scale=1e3)],
        "energy_kj": [ask("nvmlDeviceGetTotalEnergyConsumption", scale=1e6)],
        "temperature_c": [ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)],
        "sm_clock_mhz": [ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)],
        "throttled": [  # drivers before 535 know the second name only
            (f"nvmlDeviceGetCurrentClocks{name}Reasons", partial(_held_down, nvml, handle, name))
            for name in ("Event", "Throttle")
        ],
    }


def _held_down(nvml: Any, handle: Any, name: str) -> float:
    """1 where heat or power holds the clocks down now, else 0."""
    return float(bool(_reasons(nvml, handle, name)))


def _reasons(nvml: Any, handle: Any, name: str) -> list[str]:
    """Those of `HELD_DOWN` that hold the clocks down now."""
    reasons = getattr(nvml, f"nvmlDeviceGetCurrentClocks{name}Reasons")(handle)
    return [reason for reason in HELD_DOWN if reasons & getattr(nvml, f"nvmlClocks{name}Reason{reason}")]


def _others(nvml: Any, handle: Any, own: Collection[int]) -> int | None:
    """How many compute processes are on the device that are none of `own`; None: not told.

    In a container the ids are the host's and ours is not among them: one process is taken for us.
    """
    try:
        running = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
        return None
    return len(running - set(own)) if running & set(own) else max(0, len(running) - 1)


def _look(nvml: Any, gpu: Gpu, own: Collection[int]) -> dict[str, Any]:
    handle = gpu.handle

    def ask(name: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *arguments, **options)
        except (nvml.NVMLError, AttributeError):  # refused, or a binding that does not know the call
            return None

    def watts(name: str) -> float | None:
        milliwatts = ask(name)
        return None if milliwatts is None else milliwatts / 1e3

    memory = ask("nvmlDeviceGetMemoryInfo", version=nvml.nvmlMemory_v2)
    held_down = None
    for name in ("Event", "Throttle"):  # drivers before 535 know the second name only
        with suppress(nvml.NVMLError, AttributeError):
            held_down = _reasons(nvml, handle, name)
            break
    return {
        "name": gpu.name,
        "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "sm_clock_max_mhz": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "held_down_by": held_down,
        "temperature_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "power_limit_w": watts("nvmlDeviceGetEnforcedPowerLimit"),
        "power_limit_default_w": watts("nvmlDeviceGetPowerManagementDefaultLimit"),
        "memory_free_mib": None if memory is None else memory.free / MIB,
        "memory_mib": None if memory is None else memory.total / MIB,
        "others": _others(nvml, handle, own),
    }


class Sensor:
    """One quantity of one device. `calls` are tried in order; one that is refused is not asked again.

    `problem`: why nothing can be read any more; `stopped`: there were values before.
    """

    def __init__(self, nvml: Any, calls: Sequence[Call], where: str = "") -> None:
        self._nvml = nvml
        self._calls = list(calls)
        self._where = where
        self._refusals: list[str] = []
        self._answered = False
        self._silent = 0

    @property
    def problem(self) -> str | None:
        return None if self._calls else "; ".join(self._refusals)

    @property
    def stopped(self) -> bool:
        return self._answered and not self._calls

    def read(self) -> float | None:
        """The value, or None: refused, or nothing new."""
        while self._calls:
            name, call = self._calls[0]
            try:
                if not hasattr(self._nvml, name):
                    raise self._nvml.NVMLError(self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
                value = call()
            except self._nvml.NVMLError as error:
                self._refuse(f"{name}{self._where}: {error}")
                continue
            if value is not None and math.isfinite(value):
                self._answered = True
                return value
            self._silent += 1
            if self._answered or self._silent < SILENT_READS:
                return None
            self._refuse(f"{name}{self._where} gave no value")
        return None

    def _refuse(self, reason: str) -> None:
        # Another call would measure another thing: a figure is made of one call's values only.
        self._calls = [] if self._answered else self._calls[1:]
        self._refusals.append(reason)
        self._silent = 0


class UtilisationBuffer:
    """Mean of the driver's own utilisation samples (%, several a second) since the last call."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._seen = 0  # time stamp of the newest sample so far, microseconds

    def __call__(self) -> float | None:
        nvml, seen = self._nvml, self._seen
        try:
            _, samples = nvml.nvmlDeviceGetSamples(self._handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, seen)
        except nvml.NVMLError_NotFound:  # none since then
            return None
        new = [sample for sample in samples if sample.timeStamp > seen]
        if not new:
            return None
        self._seen = max(sample.timeStamp for sample in new)
        # What the buffer holds at first is from before the run.
        return fmean(sample.sampleValue.uiVal for sample in new) if seen else None


class SmActivity:
    """Mean share of multiprocessors at work (%) since the last call: GPM, on Hopper and later, also MIG."""

    def __init__(self, nvml: Any, handle: Any, mig: bool, now: Callable[[], float]) -> None:
        self._nvml = nvml
        self._handle = handle
        self._mig = mig
        self._now = now
        self._samples: list[Any] = []  # the latest, and room for the next
        self._taken = 0.0

    def __call__(self) -> float | None:
        if not self._samples:
            self._begin()
            return None
        if self._now() - self._taken <= GPM_GAP_S:
            return None
        self._samples.reverse()
        self._take()
        nvml = self._nvml
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
        request.sample2, request.sample1 = self._samples
        request.metrics[0].metricId = nvml.NVML_GPM_METRIC_SM_UTIL
        metric = nvml.nvmlGpmMetricsGet(request).metrics[0]
        if metric.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(metric.nvmlReturn)
        return float(metric.value)

    def _begin(self) -> None:
        nvml = self._nvml
        card = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self._handle) if self._mig else self._handle
        if not nvml.nvmlGpmQueryDeviceSupport(card).isSupportedDevice:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        instance = nvml.nvmlDeviceGetGpuInstanceId(self._handle) if self._mig else None
        self._card, self._instance = card, instance
        for _ in range(2):
            self._samples.append(nvml.nvmlGpmSampleAlloc())
        self._take()

    def _take(self) -> None:
        if self._mig:
            self._nvml.nvmlGpmMigSampleGet(self._card, self._instance, self._samples[0])
        else:
            self._nvml.nvmlGpmSampleGet(self._card, self._samples[0])
        self._taken = self._now()

    def free(self) -> None:
        while self._samples:
            self._nvml.nvmlGpmSampleFree(self._samples.pop())
