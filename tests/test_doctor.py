"""What the doctor says: of a fake host, of fake GPUs, and of what is and is not there to train on."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pynvml
import pytest

from bench import BenchError, doctor, nvml, scenes, server, verification, vitals, workload
from bench.doctor import Line
from tests import fake_train, small
from tests.fake_nvml import Card, FakeNvml, Time

UUID = "01234567-89ab-cdef-0123-456789abcdef"
MINI = workload.load("mini")
FOLDER = replace(
    MINI,
    values={
        **MINI.values,
        "data": {
            **MINI.values["data"], "source": "folder", "train_images": 0, "val_images": 0, "in_memory": False
        },
    },
)  # fmt: skip
SEEN = fake_train.examine("cpu")


@pytest.fixture(autouse=True)
def _healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of which nothing is wrong, and a process with torch that sees nothing wrong."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(vitals, "governors", lambda: ["performance"])
    monkeypatch.setattr(vitals, "memory_mib", lambda: (20000.0, 32000.0))
    monkeypatch.setattr(vitals, "write_and_read", lambda folder: (500.0, 900.0))
    monkeypatch.setattr(vitals, "free_mib", lambda folder: 50000.0)
    monkeypatch.setattr(vitals, "read_files", lambda files: (2000, 90.0, 0.3))
    monkeypatch.setattr(nvml, "count", lambda: 0)
    see(monkeypatch, others_pct=0.0)


def see(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """What the process with torch answers."""
    facts = {**SEEN["facts"], **changes.pop("facts", {})}
    monkeypatch.setattr(server, "start", lambda trainer: None)
    answers = {
        "examine": {**SEEN, "others_pct": 0.0, **changes, "facts": facts},
        "find_weights": ("packaged", True),
    }
    monkeypatch.setattr(server, "ask", lambda context, trainer, what, *_, **__: answers[what])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return small.pair(tmp_path / "pictures")


def lines(**options: Any) -> dict[str, Line]:
    found = doctor.examine(options.pop("work", MINI), results=Path("results"), **options)
    assert all((line.state in ("ok", "unknown")) == (not line.advice) for line in found)
    return {line.check: line for line in found}


def test_of_a_healthy_machine_every_line_is_ok(pictures: Path) -> None:
    found = lines(work=FOLDER, data=pictures)
    assert {line.state for line in found.values()} == {"ok"}
    assert list(found) == [
        "device", "torch", "clocks", "load", "steal", "memory", "results disk", "data disk", "kernel",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "answer", "check", "state"),
    [
        ("governors", ["powersave", "schedutil"], "clocks", "warn"),
        ("governors", [], "clocks", "unknown"),
        ("memory_mib", (2000.0, 32000.0), "memory", "warn"),
        ("write_and_read", (19.0, 900.0), "results disk", "warn"),
        ("free_mib", 1000.0, "results disk", "warn"),
        ("read_files", (100, 4.0, 0.3), "data disk", "warn"),
        ("read_files", (0, 0.0, 0.0), "data disk", "unknown"),
    ],
)
def test_a_host_that_is_not_quite_right_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, name: str, answer: Any, check: str, state: str
) -> None:
    monkeypatch.setattr(vitals, name, lambda *_: answer)
    found = lines(work=FOLDER, data=pictures)
    assert found[check].state == state
    assert {line.check for line in found.values() if line.state != "ok"} == {check}


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({"others_pct": 6.0}, "load", "warn"),
        ({"others_pct": 4.0}, "load", "ok"),
        ({"others_pct": None}, "load", "unknown"),
        ({"stolen_pct": 1.1}, "steal", "warn"),
        ({"stolen_pct": None}, "steal", "unknown"),
        ({"kernel_ms": [[10.0] * 8 + [13.0] * 2]}, "kernel", "warn"),
        ({"kernel_ms": [[10.0] * 19 + [13.0]]}, "kernel", "ok"),
        ({"kernel_ms": [[500.0, 501.0]]}, "kernel", "warn"),
        ({"torch_cuda": "13.0", "torchvision_cuda": "12.8"}, "torch", "warn"),
        ({"torch_cuda": "13.0", "torchvision_cuda": "13.0"}, "torch", "ok"),
    ],
)
def test_what_the_process_with_torch_saw_is_judged(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], check: str, state: str
) -> None:
    see(monkeypatch, **changes)
    found = lines()
    assert found[check].state == state
    assert {line.check for line in found.values() if line.state != "ok"} <= {check}


def test_a_gpu_that_torch_does_not_use_is_named_unless_nobody_wanted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml, "count", lambda: 2)
    assert "torch does not see the 2 GPUs" in lines()["device"].found
    assert lines(device="cpu")["device"].state == "ok"


def test_a_workload_in_half_precision_fails_on_a_cpu() -> None:
    found = lines(work=workload.load("ade20k-fake"))["device"]
    assert (found.state, "ade20k-fake trains in fp16, which a CPU does not" in found.found) == ("fail", True)


def test_devices_that_do_not_divide_the_replicas_fail_as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, facts={"device_count": 3})
    found = lines(devices=3)["device"]
    assert (found.state, found.advice) == ("fail", "use --devices 1, 2, 4 or 8")
    assert found.found == "--devices 3 does not divide the number of replicas of mini, 8"


def test_a_device_that_is_not_there_fails_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BenchError("torch sees no CUDA device here", "use --device cpu")

    monkeypatch.setattr(server, "ask", refuse)
    found = lines(device="cuda")
    assert found["device"] == Line("device", "fail", "torch sees no CUDA device here", "use --device cpu")
    assert found["memory"].state == "ok"


@pytest.mark.parametrize(
    ("torch", "needs", "state"),
    [
        ("2.14.1+cu130", "torch==2.14.1", "ok"),
        ("2.14.0", "torch (==2.13.0)", "fail"),
        ("2.14.1", "torch (>=2.14.0)", "ok"),
        ("2.9.0", "torch>=2.14.0", "fail"),
        ("2.14.1", "torchaudio==1.0", "ok"),
    ],
)
def test_torchvision_says_which_torch_it_needs(
    monkeypatch: pytest.MonkeyPatch, torch: str, needs: str, state: str
) -> None:
    monkeypatch.setattr(metadata, "version", {"torch": torch, "torchvision": "0.29.0"}.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy", needs])
    found = lines()
    assert found["torch"].state == state
    assert ("kernel" in found) == (state == "ok"), "what does not belong together is not started"


def test_without_torch_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert lines()["torch"].found == "torch is not installed"


def test_a_results_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise BenchError("cannot write", "name another")

    monkeypatch.setattr(vitals, "write_and_read", refuse)
    assert lines()["results disk"] == Line("results disk", "fail", "cannot write", "name another")


# GPUs


def gpus(
    monkeypatch: pytest.MonkeyPatch, cards: dict[str, Card], refuse: tuple[str, ...] = ()
) -> dict[str, Line]:
    """The doctor's lines on a machine with these GPUs, of which NVML refuses some calls."""
    fake = FakeNvml(Time(), cards)
    fake.refuse = dict.fromkeys(refuse, pynvml.NVML_ERROR_NOT_SUPPORTED)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    devices = nvml.Gpus([uuid.removeprefix("GPU-") for uuid in cards], fake.time)
    looks = devices.look({os.getpid()})
    devices.close()
    assert fake.opened == 0
    facts = {"device": "cuda", "device_count": len(cards), "gpu": "NVIDIA H100", "driver": "580"}
    facts |= {"cuda": "13.0", "cudnn": "91000"}
    see(monkeypatch, cards=looks, cards_problem=devices.problem, facts=facts)
    return lines()


def test_a_gpu_in_order_has_a_line_for_each_question(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpus(monkeypatch, {f"GPU-{UUID}": Card(processes=[os.getpid()])})
    assert {line.state for line in found.values()} == {"ok"}
    assert found["device"].found == "1 x NVIDIA H100"
    assert found["torch"].found.endswith("CUDA 13.0, cuDNN 91000")
    said = {check.removeprefix("gpu0 "): line.found for check, line in found.items() if "gpu0" in check}
    assert said == {
        "clock": "1980 of 1980 MHz under load",
        "throttling": "none, 61 °C",
        "others": "no other process on it",
        "power limit": "700 W",
        "memory": "77.0 of 80.0 GiB free",
    }


@pytest.mark.parametrize(
    ("card", "check", "found"),
    [
        (Card(clock_mhz=1000), "clock", "1000 of 1980 MHz under load"),
        (
            Card(reasons=pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle),
            "throttling",
            "clocks are held down by SwPowerCap, 61 °C",
        ),
        (Card(processes=[os.getpid(), 1, 2]), "others", "2 other processes compute on it"),
        (Card(processes=[1, 2]), "others", "1 other process computes on it"),
        (Card(power_limit_w=300.0), "power limit", "300 W, by default 700 W"),
        (Card(memory=40 * 2**30), "memory", "40.0 of 80.0 GiB free"),
    ],
)
def test_a_gpu_that_is_not_quite_right_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, card: Card, check: str, found: str
) -> None:
    told = gpus(monkeypatch, {f"GPU-{UUID}": card})
    assert {line.check for line in told.values() if line.state != "ok"} == {f"gpu0 {check}"}
    assert (told[f"gpu0 {check}"].state, told[f"gpu0 {check}"].found) == ("warn", found)


@pytest.mark.parametrize(
    ("calls", "check"),
    [
        (["nvmlDeviceGetClockInfo"], "clock"),
        (["nvmlDeviceGetMaxClockInfo"], "clock"),
        (
            ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"],
            "throttling",
        ),
        (["nvmlDeviceGetComputeRunningProcesses"], "others"),
        (["nvmlDeviceGetEnforcedPowerLimit"], "power limit"),
        (["nvmlDeviceGetPowerManagementDefaultLimit"], "power limit"),
        (["nvmlDeviceGetMemoryInfo"], "memory"),
    ],
)
def test_what_a_driver_does_not_tell_is_unknown_and_costs_its_own_line_only(
    monkeypatch: pytest.MonkeyPatch, calls: list[str], check: str
) -> None:
    told = gpus(monkeypatch, {f"GPU-{UUID}": Card(processes=[os.getpid()])}, tuple(calls))
    assert {line.check: line.state for line in told.values() if line.state != "ok"} == {
        f"gpu0 {check}": "unknown"
    }


def test_an_old_driver_knows_the_reasons_by_their_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(reasons=pynvml.nvmlClocksThrottleReasonHwSlowdown)
    told = gpus(monkeypatch, {f"GPU-{UUID}": card}, ("nvmlDeviceGetCurrentClocksEventReasons",))
    assert told["gpu0 throttling"].found == "clocks are held down by HwSlowdown, 61 °C"


def test_each_of_several_gpus_has_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    told = gpus(monkeypatch, {f"GPU-{UUID}": Card(), f"GPU-1{UUID[1:]}": Card(power_limit_w=300.0)})
    assert (told["gpu0 power limit"].state, told["gpu1 power limit"].state) == ("ok", "warn")


def test_gpus_that_nvml_does_not_know_are_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    see(
        monkeypatch,
        facts={"device": "cuda", "device_count": 1, "gpu": "G", "driver": None, "cuda": "13", "cudnn": "9"}
        | {"unmeasured": {"driver": "nvmlInit: driver not loaded"}},
        cards_problem="nvmlInit: driver not loaded",
    )
    found = lines()
    assert (found["gpu"].state, found["driver"].state) == ("warn", "unknown")
    assert "driver not loaded" in found["gpu"].found


def test_gpus_are_counted_with_and_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    fake = FakeNvml(Time(), {f"GPU-{UUID}": Card(), "GPU-2": Card()})
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert (nvml.count(), fake.opened) == (2, 0)
    fake.refuse = {"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
    assert nvml.count() == 0


# Data and weights


def test_the_pictures_are_there_or_what_is_missing_is_said(tmp_path: Path, pictures: Path) -> None:
    line, *_ = doctor.look_for(FOLDER, pictures, None, "t")
    assert (line.state, line.found) == ("ok", f"2 pairs for mini in {pictures}, not looked at yet")
    verification.verify(pictures, FOLDER)
    line, *_ = doctor.look_for(FOLDER, pictures, None, "t")
    assert line.found.endswith("found sound before")
    for wrong in (None, tmp_path / "absent", tmp_path):
        line, *_ = doctor.look_for(FOLDER, wrong, None, "t")
        assert line.state == "fail"
        assert line.advice


def test_scenes_are_there_or_are_drawn_by_the_first_run() -> None:
    few = replace(
        MINI, values={**MINI.values, "data": {**MINI.values["data"], "train_images": 1, "val_images": 1}}
    )
    assert doctor.look_for(few, None, None, "t")[0].found == "2 scenes for mini, drawn by the first run"
    folder = scenes.ensure(scenes.cache_folder(), 1, 1, 1)
    assert doctor.look_for(few, None, None, "t")[0].found == f"2 scenes for mini, in {folder}"
    assert doctor.look_for(few, Path("data"), None, "t")[0].state == "fail"


def test_noise_needs_neither() -> None:
    noise = replace(MINI, values={**MINI.values, "data": {**MINI.values["data"], "source": "noise"}})
    assert [line.state for line in doctor.look_for(noise, None, None, "t")] == ["ok"]


def test_weights_are_packaged_there_fetched_later_or_not_what_they_should_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ask(context: None, trainer: str, what: str, backbone: str, name: str, place: Path | None) -> Any:
        assert what == "find_weights"
        if place is not None:
            raise BenchError("damaged", "fetch it again")
        return f"cache/{name}.pth", name != "IMAGENET1K_V2"

    monkeypatch.setattr(server, "ask", ask)
    assert [line.found for line in doctor.look_for(MINI, None, None, "t")[1:]] == [
        "mini-v1, packaged",
        "mini-v2, packaged",
    ]
    ade = workload.load("ade20k")
    first, second = doctor.look_for(ade, None, None, "t")[1:]
    assert (first.state, first.found) == ("ok", "IMAGENET1K_V1, in cache/IMAGENET1K_V1.pth")
    assert (second.state, second.found) == ("warn", "IMAGENET1K_V2 is not here: cache/IMAGENET1K_V2.pth")
    assert doctor.look_for(ade, None, tmp_path, "t")[1] == Line(
        "weights", "fail", "damaged", "fetch it again"
    )
    assert doctor.look_for(ade, None, tmp_path / "absent", "t")[1].state == "fail"
    assert doctor.look_for(MINI, None, tmp_path, "t")[1].state == "fail", "mini's travel with segbench"


# Beside a record


def test_what_is_kept_is_read_back_and_a_resumed_run_keeps_both(tmp_path: Path) -> None:
    first, second = Line("load", "warn", "busy", "wait"), Line("load", "ok", "quiet")
    assert doctor.read(tmp_path) == []
    doctor.keep(tmp_path, [first], resumed=False)
    doctor.keep(tmp_path, [second], resumed=True)
    found = [line for each in doctor.read(tmp_path) for line in each["lines"]]
    assert [Line(**line) for line in found] == [first, second]
    doctor.keep(tmp_path, [second], resumed=False)
    assert len(doctor.read(tmp_path)) == 1, "a run that begins anew has nothing to do with the one before"


@pytest.mark.parametrize(
    "text",
    ["", "{", "7", "[7]", '[{"at": ""}]', '[{"at": "", "lines": [{"check": "load"}]}]', "[" * 100_000]
    + [json.dumps([{"at": "", "lines": [{"check": "", "state": "fine", "found": "", "advice": ""}]}])],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / doctor.FILE).write_text(text)
    with pytest.raises(BenchError, match=r"doctor.json cannot be read") as caught:
        doctor.read(tmp_path)
    assert caught.value.hint.startswith("delete it")


def test_the_real_machine_answers_every_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    asked = doctor.examine(MINI, results=tmp_path / "results" / "local", device="cpu")
    asked += doctor.look_for(MINI, None, None)
    assert {line.check for line in asked} >= {"device", "torch", "load", "steal", "kernel", "data", "weights"}
    assert "fail" not in {line.state for line in asked}
    assert not (tmp_path / "results").exists(), "an examination leaves nothing behind"
    assert list(tmp_path.iterdir()) == []
