# ruff: noqa: N802, N815 - the names are NVML's
"""A fake NVML with cards that tests set up. Constants, structures and errors are those of the real `pynvml`;
a function that is not faked here is missing, so that code which calls it fails."""

from __future__ import annotations

import ctypes
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml


class Time:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Card:
    """A GPU, or a MIG device if it has a `parent`."""

    busy: int = 80
    sm_active: float = 40.0
    memory: int = 3 * 2**30
    watts: float = 300.0
    reasons: int = 0
    clock_mhz: int = 1980
    power_limit_w: float = 700.0
    processes: list[int] = field(default_factory=list)
    parent: Card | None = None
    mig_mode: int = pynvml.NVML_FEATURE_DISABLED
    energy_mj: float = 5e9
    buffer: list[tuple[int, int]] = field(default_factory=lambda: [(1, 7)])  # a sample from before the run


class FakeNvml(types.ModuleType):
    """Stands in for the module: `monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(...))`.

    `refuse` maps a function's name to the NVML error code it answers with; `called` has who called what.
    """

    def __init__(self, time: Time, cards: dict[str, Card]) -> None:
        super().__init__("pynvml")
        self.time = time
        self.cards = cards
        self.refuse: dict[str, int] = {}
        self.called: list[tuple[str, int]] = []
        self.on_call: Callable[[], None] = lambda: None
        self.opened = 0
        self.gpm: dict[int | None, tuple[float, float] | None] = {}  # address of a sample -> when, value

    def __getattr__(self, name: str) -> Any:
        faked = FakeNvml.__dict__.get(f"_{name}")
        if faked is None:
            if name.startswith("nvml") and callable(getattr(pynvml, name, None)):
                raise AttributeError(f"{name} is not faked")
            return getattr(pynvml, name)
        return lambda *arguments, **options: self._call(name, faked, *arguments, **options)

    def _call(self, name: str, faked: Any, *arguments: Any, **options: Any) -> Any:
        self.called.append((name, threading.get_ident()))
        self.on_call()
        if name in self.refuse:
            raise pynvml.NVMLError(self.refuse[name])
        return faked(self, *arguments, **options)

    def pass_time(self, seconds: float) -> None:
        """Let every card work for that long; the driver takes four samples a second."""
        for _ in range(round(seconds * 4)):
            self.time.seconds += 0.25
            for card in self.cards.values():
                card.energy_mj += card.watts * 250
                card.buffer.append((int(self.time.seconds * 1e6), card.busy))

    def _nvmlInit(self) -> None:
        self.opened += 1

    def _nvmlShutdown(self) -> None:
        self.opened -= 1

    def _nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def _nvmlDeviceGetCount(self) -> int:
        return sum(card.parent is None for card in self.cards.values())

    def _nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        if uuid not in self.cards:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.cards[uuid]

    def _nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        return [card.mig_mode, card.mig_mode]

    def _nvmlDeviceGetSamples(self, card: Card, kind: int, seen: int) -> tuple[int, list[Any]]:
        assert kind == pynvml.NVML_GPU_UTILIZATION_SAMPLES
        self._not_on_mig(card)
        samples = []
        for stamp, value in card.buffer:
            if stamp > seen:
                sample = pynvml.c_nvmlSample_t(timeStamp=stamp)
                sample.sampleValue.uiVal = value
                samples.append(sample)
        if not samples:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, samples

    def _nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:
        self._not_on_mig(card)
        return pynvml.c_nvmlUtilization_t(gpu=card.busy, memory=0)

    def _nvmlDeviceGetMemoryInfo(self, card: Card, version: int | None = None) -> Any:
        reserved = 0 if version == pynvml.nvmlMemory_v2 else 2**29
        return types.SimpleNamespace(
            used=card.memory + reserved, free=80 * 2**30 - card.memory - reserved, total=80 * 2**30
        )

    def _nvmlDeviceGetPowerUsage(self, card: Card) -> int:
        self._not_on_mig(card)
        return round(card.watts * 1000)

    def _nvmlDeviceGetTotalEnergyConsumption(self, card: Card) -> int:
        self._not_on_mig(card)
        return round(card.energy_mj)

    def _nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return 61

    def _nvmlDeviceGetClockInfo(self, card: Card, kind: int) -> int:
        assert kind == pynvml.NVML_CLOCK_SM
        return card.clock_mhz

    def _nvmlDeviceGetMaxClockInfo(self, card: Card, kind: int) -> int:
        assert kind == pynvml.NVML_CLOCK_SM
        return 1980

    def _nvmlDeviceGetEnforcedPowerLimit(self, card: Card) -> int:
        self._not_on_mig(card)
        return round(card.power_limit_w * 1000)

    def _nvmlDeviceGetPowerManagementDefaultLimit(self, card: Card) -> int:
        self._not_on_mig(card)
        return 700_000

    def _nvmlDeviceGetCurrentClocksEventReasons(self, card: Card) -> int:
        self._not_on_mig(card)
        return card.reasons

    _nvmlDeviceGetCurrentClocksThrottleReasons = _nvmlDeviceGetCurrentClocksEventReasons

    def _nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in card.processes]

    def _nvmlGpmQueryDeviceSupport(self, card: Card) -> Any:
        assert card.parent is None
        return pynvml.c_nvmlGpmSupport_t(isSupportedDevice=1)

    def _nvmlGpmSampleAlloc(self) -> Any:
        address = 16 * (len(self.gpm) + 1)
        self.gpm[address] = None
        return ctypes.cast(address, pynvml.c_nvmlGpmSample_t)

    def _nvmlGpmSampleFree(self, sample: Any) -> None:
        del self.gpm[_address(sample)]

    def _nvmlGpmSampleGet(self, card: Card, sample: Any) -> None:
        assert card.parent is None
        self.gpm[_address(sample)] = (self.time(), card.sm_active)

    def _nvmlGpmMigSampleGet(self, parent: Card, instance: int, sample: Any) -> None:
        mig = next(card for card in self.cards.values() if card.parent is parent)
        assert instance == 3
        self.gpm[_address(sample)] = (self.time(), mig.sm_active)

    def _nvmlGpmMetricsGet(self, request: Any) -> Any:
        assert (request.version, request.numMetrics) == (pynvml.NVML_GPM_METRICS_GET_VERSION, 1)
        assert request.metrics[0].metricId == pynvml.NVML_GPM_METRIC_SM_UTIL
        earlier, later = self.gpm[_address(request.sample1)], self.gpm[_address(request.sample2)]
        assert earlier is not None
        assert later is not None
        assert later[0] - earlier[0] > 0.1
        request.metrics[0].value = later[1]
        return request

    def _nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, card: Card) -> Card:
        assert card.parent is not None
        return card.parent

    def _nvmlDeviceGetGpuInstanceId(self, card: Card) -> int:
        assert card.parent is not None
        return 3

    def _not_on_mig(self, card: Card) -> None:
        if card.parent is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def _address(sample: Any) -> int | None:
    return ctypes.cast(sample, ctypes.c_void_p).value
