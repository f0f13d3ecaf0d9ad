"""What the machine is and did: every NVML call refused in turn, sums over train time only, resumed sums."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from bench import BenchError, machine, nvml, record
from tests.fake_nvml import Card, FakeNvml, Time

UUID = "5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
OTHER = "c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
GPU_FIELDS = set(machine.GPU_FIELDS)


class World(FakeNvml):
    """A fake NVML on a machine of two cores that is as busy as told."""

    def __init__(self, time: Time, cards: dict[str, Card]) -> None:
        super().__init__(time, cards)
        self.cores_busy = 1.0  # by all processes
        self.cores_own = 1.0  # by ours
        self.busy = self.idle = self.own = 0.0
        self.memory: float | None = 500.0

    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.busy += self.cores_busy * seconds
        self.idle += (2 - self.cores_busy) * seconds
        self.own += self.cores_own * seconds

    def cpu_times(self, percpu: bool) -> list[Any]:
        """One entry, which stands for all cores."""
        assert percpu
        times = {
            "user": 50 + self.busy,
            "guest": self.busy / 2,  # is in user, too
            "idle": 0.7 * self.idle,
            "iowait": 0.2 * self.idle,
            "steal": 0.1 * self.idle,
        }
        return [SimpleNamespace(_asdict=lambda: times)]

    def memory_info(self, process: psutil.Process) -> Any:
        if self.memory is None:
            raise psutil.AccessDenied(process.pid)
        return SimpleNamespace(pss=self.memory * 2**20)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(Time(), {f"GPU-{UUID}": Card()})
    monkeypatch.setitem(sys.modules, "pynvml", world)
    monkeypatch.setattr(psutil, "cpu_times", world.cpu_times)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr(psutil.Process, "memory_full_info", lambda process: world.memory_info(process))
    monkeypatch.setattr(psutil.Process, "children", lambda process, recursive: [])
    monkeypatch.setattr(os, "times", lambda: (world.own, 0.0, 0.0, 0.0, world.time()))
    return world


@pytest.fixture
def open_telemetry(world: World, tmp_path: Path) -> Iterator[Any]:
    """Make a Telemetry on fake time; it is stopped at the end of the test, its thread never started."""
    made = []

    def open_one(uuids: tuple[str, ...] = (UUID,), state: Any = None) -> machine.Telemetry:
        made.append(machine.Telemetry(tmp_path / "telemetry.csv", uuids, state, now=world.time))
        return made[-1]

    yield open_one
    for telemetry in made:
        telemetry.stop()
    assert world.opened == 0


def sample(world: World, telemetry: machine.Telemetry, seconds: int) -> None:
    """What the thread does, for that many seconds."""
    for _ in range(2 * seconds):
        world.pass_time(0.5)
        telemetry.sample()


def run(world: World, telemetry: machine.Telemetry, seconds: int = 4) -> tuple[Any, Any, Any]:
    """Some set-up, `seconds` of training, an evaluation; the summary."""
    sample(world, telemetry, 2)
    telemetry.enter("train")
    sample(world, telemetry, seconds)
    telemetry.enter("eval")
    sample(world, telemetry, 3)
    return telemetry.summary()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "telemetry.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_on_one_gpu_fills_every_hardware_field(world: World, open_telemetry: Any) -> None:
    values, reasons, warnings = run(world, open_telemetry())
    assert reasons == {}
    assert warnings == []
    assert values.keys() == {field.name for field in record.FIELDS if field.group == "hardware"}
    cost = values.pop("telemetry_cost_pct")
    assert 0 < cost < 100
    assert values == {
        "gpu_busy_pct": 80.0,
        "gpu_sm_active_pct": 40.0,
        "gpu_memory_peak_mib": 3072.0,
        "gpu_power_w": 300.0,
        "gpu_energy_kj": pytest.approx(1.2),
        "gpu_throttled_s": 0.0,
        "cpu_busy_pct": pytest.approx(50.0),
        "memory_peak_mib": 500.0,
    }


def test_only_train_time_counts(world: World, open_telemetry: Any) -> None:
    card = world.cards[f"GPU-{UUID}"]
    telemetry = open_telemetry()
    telemetry.sample()
    for phase, watts, busy, memory in (
        ("setup", 900.0, 1, 9000),
        ("train", 100.0, 90, 1000),
        ("eval", 900.0, 1, 9000),
        ("train", 200.0, 60, 2000),
        ("checkpoint", 900.0, 1, 9000),
    ):
        telemetry.enter(phase)
        card.watts, card.busy, card.memory = watts, busy, memory * 2**20
        card.sm_active = float(busy)
        world.memory, world.cores_busy = float(memory), 1.5 if phase == "train" else 0.5
        card.reasons = 0 if phase == "train" else pynvml.nvmlClocksEventReasonHwSlowdown
        sample(world, telemetry, 5)
        world.pass_time(0.25)
    values, _, _ = telemetry.summary()
    assert values["gpu_energy_kj"] == pytest.approx(0.1 * 5.25 + 0.2 * 5.25)
    assert values["gpu_power_w"] == pytest.approx(150)
    assert values["gpu_busy_pct"] == pytest.approx(75)
    assert values["gpu_sm_active_pct"] == pytest.approx(75)
    assert values["gpu_throttled_s"] == 0
    assert values["cpu_busy_pct"] == pytest.approx(75)
    assert (values["gpu_memory_peak_mib"], values["memory_peak_mib"]) == (2000, 2000)


def test_a_run_without_a_gpu_never_opens_nvml(world: World, open_telemetry: Any) -> None:
    values, reasons, warnings = run(world, open_telemetry(()))
    assert reasons == dict.fromkeys(GPU_FIELDS, "the run used no GPU")
    assert {name for name, value in values.items() if value is None} == GPU_FIELDS
    assert values["cpu_busy_pct"] == pytest.approx(50)
    assert world.called == []
    assert warnings == []


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        ("no module", "nvidia-ml-py is not installed"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "nvmlInit: NVML Shared Library Not Found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "nvmlInit: Driver Not Loaded"),
    ],
)
def test_without_library_or_driver_the_gpu_fields_are_null_with_the_reason(
    world: World, open_telemetry: Any, monkeypatch: pytest.MonkeyPatch, break_it: Any, reason: str
) -> None:
    if break_it == "no module":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        world.refuse["nvmlInit"] = break_it
    values, reasons, warnings = run(world, open_telemetry())
    assert reasons == dict.fromkeys(GPU_FIELDS, reason)
    assert values["memory_peak_mib"] == 500
    assert warnings == []
    assert nvml.driver_version() == (None, reason)


# Every function of NVML that a run calls, and the fields that are lost where it is not supported.
LOST = {
    "nvmlInit": GPU_FIELDS,
    "nvmlDeviceGetHandleByUUID": GPU_FIELDS,
    "nvmlDeviceGetMigMode": set(),
    "nvmlDeviceGetSamples": set(),  # polled instead
    "nvmlDeviceGetMemoryInfo": {"gpu_memory_peak_mib"},
    "nvmlDeviceGetPowerUsage": {"gpu_power_w"},
    "nvmlDeviceGetTotalEnergyConsumption": {"gpu_energy_kj"},
    "nvmlDeviceGetTemperature": set(),
    "nvmlDeviceGetClockInfo": set(),
    "nvmlDeviceGetCurrentClocksEventReasons": set(),  # the older name instead
    "nvmlGpmQueryDeviceSupport": {"gpu_sm_active_pct"},
    "nvmlGpmSampleAlloc": {"gpu_sm_active_pct"},
    "nvmlGpmSampleGet": {"gpu_sm_active_pct"},
    "nvmlGpmMetricsGet": {"gpu_sm_active_pct"},
    "nvmlGpmSampleFree": set(),
    "nvmlDeviceGetComputeRunningProcesses": set(),
    "nvmlSystemGetDriverVersion": set(),
}
BOTH_NAMES = {
    ("nvmlDeviceGetSamples", "nvmlDeviceGetUtilizationRates"): {"gpu_busy_pct"},
    ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"): {
        "gpu_throttled_s"
    },
}


@pytest.mark.parametrize(
    ("refused", "lost"), [*(((name,), lost) for name, lost in LOST.items()), *BOTH_NAMES.items()]
)
def test_a_call_that_is_not_supported_costs_its_own_field_only(
    world: World, open_telemetry: Any, refused: tuple[str, ...], lost: set[str]
) -> None:
    world.refuse = dict.fromkeys(refused, pynvml.NVML_ERROR_NOT_SUPPORTED)
    telemetry = open_telemetry()
    telemetry._look_for_others()
    values, reasons, warnings = run(world, telemetry)
    world.refuse.pop("nvmlGpmSampleFree", None)
    assert {name for name, value in values.items() if value is None} == lost == reasons.keys()
    assert all("Not Supported" in reason for reason in reasons.values())
    assert warnings == []


def test_the_table_of_refused_calls_is_complete(world: World, open_telemetry: Any) -> None:
    telemetry = open_telemetry()
    run(world, telemetry)
    telemetry.stop()
    nvml.driver_version()
    assert {name for name, _ in world.called} - {"nvmlShutdown"} == LOST.keys()


def test_a_driver_that_refuses_to_close_harms_nothing(world: World, open_telemetry: Any) -> None:
    telemetry = open_telemetry()
    run(world, telemetry)
    world.refuse["nvmlShutdown"] = pynvml.NVML_ERROR_GPU_IS_LOST
    telemetry.stop()
    assert telemetry.summary()[0]["gpu_power_w"] == 300
    world.opened = 0


@pytest.mark.parametrize(
    ("call", "field", "before"),
    [
        ("nvmlDeviceGetSamples", "gpu_busy_pct", 80),
        ("nvmlGpmSampleGet", "gpu_sm_active_pct", 40),
        ("nvmlDeviceGetMemoryInfo", "gpu_memory_peak_mib", 3072),
        ("nvmlDeviceGetPowerUsage", "gpu_power_w", 300),
        ("nvmlDeviceGetTotalEnergyConsumption", "gpu_energy_kj", 0.3 * 4),
        ("nvmlDeviceGetCurrentClocksEventReasons", "gpu_throttled_s", 0),
    ],
)
def test_after_an_error_in_mid_run_the_figures_cover_the_time_before(
    world: World, open_telemetry: Any, call: str, field: str, before: float
) -> None:
    card = world.cards[f"GPU-{UUID}"]
    telemetry = open_telemetry()
    telemetry.enter("train")
    sample(world, telemetry, 4)
    world.refuse[call] = pynvml.NVML_ERROR_GPU_IS_LOST
    card.busy, card.sm_active, card.memory, card.watts, card.reasons = 10, 10.0, 2**40, 50.0, 4
    sample(world, telemetry, 4)
    calls = world.called.count((call, threading.get_ident()))
    world.refuse.clear()
    sample(world, telemetry, 4)
    values, reasons, warnings = telemetry.summary()
    assert values[field] == pytest.approx(before)
    assert reasons == {}
    assert "telemetry_stopped" in warnings
    assert world.called.count((call, threading.get_ident())) == calls  # not asked again
    assert telemetry.state()["warnings"] == ["telemetry_stopped"]


def test_a_call_that_never_gives_a_value_makes_room_for_the_next(world: World, open_telemetry: Any) -> None:
    world.refuse["nvmlDeviceGetSamples"] = pynvml.NVML_ERROR_NOT_FOUND  # "no samples", for ever
    values, reasons, _ = run(world, open_telemetry(), seconds=20)
    assert values["gpu_busy_pct"] == 80
    assert reasons == {}


def test_a_value_that_is_not_a_number_is_unknown(world: World, open_telemetry: Any) -> None:
    world.cards[f"GPU-{UUID}"].sm_active = float("nan")
    values, reasons, _ = run(world, open_telemetry(), seconds=20)
    assert values["gpu_sm_active_pct"] is None
    assert reasons == {"gpu_sm_active_pct": "gpu0: nvmlGpmMetricsGet gave no value"}


@pytest.mark.parametrize("asked", [UUID, f"GPU-{UUID}"])
def test_a_gpu_is_found_by_its_uuid_with_and_without_prefix(
    world: World, open_telemetry: Any, asked: str
) -> None:
    world.cards = {f"GPU-{OTHER}": Card(watts=10.0), f"GPU-{UUID}": Card(watts=123.0)}
    values, _, _ = run(world, open_telemetry((asked,)))
    assert values["gpu_power_w"] == 123


def test_an_unknown_uuid_is_the_reason_and_no_other_gpu_is_read(world: World, open_telemetry: Any) -> None:
    values, reasons, _ = run(world, open_telemetry((UUID, OTHER)))
    assert reasons == dict.fromkeys(GPU_FIELDS, f"gpu1 ({OTHER}): Not Found")
    assert values["gpu_power_w"] is None
    assert "nvmlDeviceGetPowerUsage" not in {name for name, _ in world.called}


@pytest.mark.parametrize("asked", [OTHER, f"MIG-{OTHER}"])
def test_a_mig_device_has_memory_and_activity_and_a_reason_for_the_rest(
    world: World, open_telemetry: Any, asked: str
) -> None:
    parent = world.cards[f"GPU-{UUID}"]
    parent.mig_mode = pynvml.NVML_DEVICE_MIG_ENABLE
    world.cards[f"MIG-{OTHER}"] = Card(parent=parent, memory=2**30, sm_active=25.0)
    values, reasons, warnings = run(world, open_telemetry((asked,)))
    assert (values["gpu_memory_peak_mib"], values["gpu_sm_active_pct"]) == (1024, 25)
    assert reasons.keys() == {"gpu_busy_pct", "gpu_power_w", "gpu_energy_kj", "gpu_throttled_s"}
    assert reasons["gpu_power_w"] == "gpu0: nvmlDeviceGetPowerUsage on a MIG device: Not Supported"
    assert warnings == []


def test_figures_of_a_card_that_is_cut_into_mig_devices_are_not_taken(
    world: World, open_telemetry: Any
) -> None:
    world.cards[f"GPU-{UUID}"].mig_mode = pynvml.NVML_DEVICE_MIG_ENABLE
    _, reasons, _ = run(world, open_telemetry())
    assert reasons.keys() == GPU_FIELDS
    assert "cut into MIG devices" in reasons["gpu_energy_kj"]


def test_two_devices_are_summed_averaged_or_the_larger_taken(world: World, open_telemetry: Any) -> None:
    capped = pynvml.nvmlClocksEventReasonSwPowerCap
    world.cards[f"GPU-{UUID}"].reasons = capped
    world.cards[f"GPU-{OTHER}"] = Card(busy=40, sm_active=20.0, memory=2**30, watts=100.0, reasons=capped)
    values, _, warnings = run(world, open_telemetry((OTHER, UUID)))
    assert values["gpu_busy_pct"] == 60
    assert values["gpu_sm_active_pct"] == 30
    assert values["gpu_memory_peak_mib"] == 3072
    assert values["gpu_power_w"] == 400
    assert values["gpu_energy_kj"] == pytest.approx(1.6)
    assert values["gpu_throttled_s"] == pytest.approx(4)
    assert warnings == ["throttled"]


@pytest.mark.parametrize(("reason", "held"), [("SwThermalSlowdown", 4.0), ("GpuIdle", 0.0)])
def test_only_heat_and_power_count_as_throttling(
    world: World, open_telemetry: Any, reason: str, held: float
) -> None:
    world.cards[f"GPU-{UUID}"].reasons = getattr(pynvml, f"nvmlClocksEventReason{reason}")
    values, _, warnings = run(world, open_telemetry())
    assert values["gpu_throttled_s"] == pytest.approx(held)
    assert warnings == (["throttled"] if held else [])


@pytest.mark.parametrize(
    ("processes", "shared"),
    [
        ([], False),
        ([os.getpid()], False),
        ([os.getpid(), 4242], True),
        ([4242], False),  # in a container our own process has the host's id
        ([4242, 4243], True),
    ],
)
@pytest.mark.parametrize("when", ["start", "end"])
def test_other_processes_on_the_gpu_make_a_timing_doubtful(
    world: World, open_telemetry: Any, processes: list[int], shared: bool, when: str
) -> None:
    card = world.cards[f"GPU-{UUID}"]
    telemetry = open_telemetry()
    if when == "start":
        card.processes = processes
        telemetry._look_for_others()
        card.processes = []
    run(world, telemetry)
    if when == "end":
        card.processes = processes
    telemetry.stop()
    assert telemetry.summary()[2] == (["gpu_shared"] if shared else [])


@pytest.mark.parametrize(("others", "busy"), [(0.04, False), (0.06, True)])
def test_other_programs_on_the_processor_make_a_timing_doubtful(
    world: World, open_telemetry: Any, others: float, busy: bool
) -> None:
    world.cores_own = 1.0 - others
    assert run(world, open_telemetry(()))[2] == (["machine_busy"] if busy else [])


def test_without_proportional_memory_the_field_is_null_with_the_reason(
    world: World, open_telemetry: Any
) -> None:
    world.memory = None
    values, reasons, _ = run(world, open_telemetry(()))
    assert values["memory_peak_mib"] is None
    assert reasons["memory_peak_mib"].startswith("no proportional set size")


def test_before_any_training_nothing_is_measured(world: World, open_telemetry: Any) -> None:
    telemetry = open_telemetry()
    sample(world, telemetry, 3)
    values, reasons, warnings = telemetry.summary()
    assert set(values.values()) == {None}
    assert all(reason.endswith(machine.NO_SAMPLE) for reason in reasons.values())
    assert warnings == []


def test_training_shorter_than_a_period_is_measured(world: World, open_telemetry: Any) -> None:
    telemetry = open_telemetry()
    telemetry.sample()
    telemetry.enter("train")
    world.pass_time(0.25)
    telemetry.enter("eval")
    values, reasons, _ = telemetry.summary()
    assert reasons == {}
    assert values["memory_peak_mib"] == 500
    assert values["gpu_energy_kj"] == pytest.approx(0.075)


def test_a_resumed_run_goes_on_with_the_sums_and_drops_rows_of_lost_work(
    world: World, open_telemetry: Any, tmp_path: Path
) -> None:
    first = open_telemetry()
    world.cards[f"GPU-{UUID}"].processes = [1, 2]
    first._look_for_others()
    world.cards[f"GPU-{UUID}"].processes = []
    before, _, _ = run(world, first)
    state = json.loads(json.dumps(first.state()))
    kept = rows(tmp_path)
    first.enter("train")
    sample(world, first, 5)  # lost
    first.stop()
    with (tmp_path / "telemetry.csv").open("a") as file:
        file.write("14.000,train,cp")  # cut off by a crash

    world.time.seconds += 1000
    world.cards[f"GPU-{UUID}"].memory = 2**30
    second = open_telemetry(state=state)
    after, reasons, warnings = run(world, second)
    assert reasons == {}
    assert after["gpu_energy_kj"] == pytest.approx(2 * before["gpu_energy_kj"])
    assert after["gpu_power_w"] == before["gpu_power_w"]
    assert after["gpu_memory_peak_mib"] == before["gpu_memory_peak_mib"]
    assert warnings == ["gpu_shared"]
    resumed = rows(tmp_path)
    assert resumed[: len(kept)] == kept
    times = [float(row["t"]) for row in resumed]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(2 * 9, abs=0.01)


def test_a_fresh_run_drops_the_rows_of_an_older_one(
    world: World, open_telemetry: Any, tmp_path: Path
) -> None:
    run(world, open_telemetry())
    open_telemetry()
    assert rows(tmp_path) == []


def test_rows_have_a_time_a_phase_and_a_device_and_leave_the_unknown_empty(
    world: World, open_telemetry: Any, tmp_path: Path
) -> None:
    world.refuse["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    run(world, open_telemetry())
    read = rows(tmp_path)
    assert {row["phase"] for row in read} == {"setup", "train", "eval"}
    assert [row["busy_pct"] for row in read[:2]] == ["", ""]  # what was before the run is not its own
    cpu, gpu = [row for row in read if row["phase"] == "train"][2:4]
    assert cpu == {
        "t": "3.000", "phase": "train", "device": "cpu", "busy_pct": "50", "sm_active_pct": "",
        "memory_mib": cpu["memory_mib"], "power_w": "", "temperature_c": "", "sm_clock_mhz": "",
        "throttled": "",
    }  # fmt: skip
    assert gpu == {
        "t": "3.000", "phase": "train", "device": "gpu0", "busy_pct": "80", "sm_active_pct": "40",
        "memory_mib": "3072", "power_w": "", "temperature_c": "61", "sm_clock_mhz": "1980",
        "throttled": "0",
    }  # fmt: skip


def test_memory_is_read_once_a_second_at_most(world: World, open_telemetry: Any, tmp_path: Path) -> None:
    telemetry = open_telemetry(())
    telemetry.sample()
    sample(world, telemetry, 4)
    read = [row["t"] for row in rows(tmp_path) if row["memory_mib"]]
    assert read == ["0.000", "1.000", "2.000", "3.000", "4.000"]


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot write"):
        machine.Telemetry(tmp_path / "file" / "telemetry.csv")


def test_a_disk_that_fills_up_ends_the_rows_and_not_the_run(world: World, open_telemetry: Any) -> None:
    telemetry = open_telemetry()
    telemetry._rows.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        telemetry._rows = full
        values, reasons, warnings = run(world, telemetry)
        telemetry.stop()
    assert reasons == {}
    assert values["gpu_power_w"] == 300
    assert warnings == ["telemetry_stopped"]


def test_the_thread_samples_and_stops(world: World, open_telemetry: Any, tmp_path: Path) -> None:
    telemetry = open_telemetry()
    telemetry.start()
    telemetry.stop()
    assert not telemetry._thread.is_alive()
    readers = {thread for name, thread in world.called if name == "nvmlDeviceGetPowerUsage"}
    assert len(readers - {threading.get_ident()}) == 1
    assert len(rows(tmp_path)) >= 2


def test_after_the_stop_nothing_more_is_read(world: World, open_telemetry: Any, tmp_path: Path) -> None:
    telemetry = open_telemetry()
    values, _, _ = run(world, telemetry)
    telemetry.stop()
    called, written = len(world.called), rows(tmp_path)
    telemetry.enter("checkpoint")
    telemetry.stop()
    assert telemetry.state()["train_s"] == 4
    assert telemetry.summary()[0] == values
    assert (len(world.called), rows(tmp_path)) == (called, written)


def test_real_sensors_of_this_machine_do_not_raise(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        telemetry = machine.Telemetry(tmp_path / "telemetry.csv", [UUID])
        telemetry.enter("train")
        telemetry.sample()
        telemetry.enter("eval")
        telemetry.stop()
        child.communicate(b"\n")
    values, reasons, _ = telemetry.summary()
    assert reasons.keys() >= GPU_FIELDS  # no machine has the GPU of this test
    assert {name for name, value in values.items() if value is None} == reasons.keys()
    version, problem = nvml.driver_version()
    assert (version is None) == (problem is not None)


def test_host_facts_are_fields_of_the_record() -> None:
    facts = machine.host_facts()
    assert facts.keys() <= record.FIELD.keys()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["cores"] >= 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9R14 \nflags\t: fpu\n", "AMD EPYC 9R14"),
        ("processor\t: 0\n", None),
    ],
)
def test_the_processor_is_named_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str | None
) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    (tmp_path / "cpuinfo").write_text(text)
    assert machine._processor(tmp_path / "cpuinfo") == name
    assert machine._processor(tmp_path / "missing") is None


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    finished = subprocess.run(
        ("git", *identity, "-C", str(folder), *arguments), check=True, capture_output=True, text=True
    )
    return finished.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package and a recipe, committed."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for path in ("bench/__init__.py", "recipes/00-base.toml"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_commit_is_that_of_the_checkout_which_holds_the_package(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook
    commit, dirty = machine._checkout(checkout / "bench")
    monkeypatch.delenv("GIT_DIR")
    assert (commit, dirty) == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("bench/__init__.py", True),
        ("bench/new.py", True),
        ("recipes/00-base.toml", True),
        ("results/reference/run.json", False),
    ],
)
def test_changed_code_and_recipes_make_the_tree_dirty_but_not_results(
    checkout: Path, path: str, dirty: bool
) -> None:
    (checkout / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout / path).write_text("changed")
    assert machine._checkout(checkout / "bench")[1] is dirty


def test_a_package_installed_inside_another_checkout_has_no_commit(checkout: Path) -> None:
    installed = checkout / "venv" / "bench"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert machine._checkout(installed) == (None, None)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert machine._checkout(checkout / "bench") == (None, None)


@pytest.mark.parametrize(
    ("gpu", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "tf32", 378.0),
        ("NVIDIA H200", "float32", 67.0),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312.0),
        ("NVIDIA A100 80GB PCIe", "tf32", 156.0),
        ("A100-PCIE-40GB", "float32", 19.5),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("Tesla V100-SXM2-16GB", "tf32", None),
        ("NVIDIA A10", "fp16", 125.0),
        ("NVIDIA A10G", "fp16", None),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.05),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),
        ("NVIDIA GH200 480GB", "bf16", None),
        ("NVIDIA H200 NVL", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "fp16", None),
        ("an unknown GPU", "float32", None),
    ],
)
def test_the_nominal_peak_is_the_makers_dense_figure_or_unknown(
    gpu: str, precision: str, peak: float | None
) -> None:
    assert machine.nominal_peak_tflops(gpu, precision) == peak


def test_a_precision_nobody_has_is_refused() -> None:
    with pytest.raises(ValueError, match="fp12"):
        machine.nominal_peak_tflops("NVIDIA L4", "fp12")


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ({0: "0", 1: "1"}, [0, 1]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, [0, 2, 1, 3]),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, [0, 1, 2, 3]),
        ({4: "4-5", 5: "4-5"}, [4, 5]),
    ],
)
def test_one_of_each_physical_core_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siblings: dict[int, str], expected: list[int]
) -> None:
    for core, shared in siblings.items():
        place = tmp_path / f"cpu{core}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(shared)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(siblings))
    assert machine.usable_cores(tmp_path) == expected


def test_without_a_topology_every_core_stands_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 0})
    assert machine.usable_cores(tmp_path) == [0, 2]
