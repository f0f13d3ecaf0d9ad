"""The device: found or refused by name, described for the record, set up and measured."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import BenchError, device, nvml, record
from tests import conftest

GPU_FIELDS = {"gpu", "driver", "cuda", "cudnn"}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """What `set_up` changes for the whole process is put back."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    monkeypatch.setattr(nvml, "driver_version", lambda: ("580.1", None))


def test_other_tests_than_those_for_a_gpu_are_shown_none() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["tests/test_cuda.py"], True),
        (["tests/test_cuda.py::test_nccl_starts_with_one_process", "/home/tests/test_cuda.py"], True),
        (["tests"], False),
        (["tests/test_cuda.py", "tests/test_device.py"], False),
        (["/home/test_cuda/tests"], False),
        (["/home/test_cuda"], False),
    ],
)
def test_only_tests_for_a_gpu_by_themselves_are_shown_one(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], shown: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    conftest.pytest_configure(SimpleNamespace(args=asked))  # type: ignore[arg-type]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("0" if shown else "")


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_without_a_gpu_the_run_is_on_the_cpu_and_says_why_the_rest_is_unknown(
    no_gpu: None, wanted: str
) -> None:
    found = device.facts(wanted)
    reasons = found.pop("unmeasured")
    assert (found["device"], found["device_count"]) == ("cpu", 1)
    assert found.keys() <= record.FIELD.keys()
    unknown = {name for name, value in found.items() if value is None}
    assert unknown - {"git_commit", "git_dirty"} <= reasons.keys()
    assert {name: reasons[name] for name in GPU_FIELDS} == dict.fromkeys(GPU_FIELDS, "the run used no GPU")
    assert (found["tf32"], found["cudnn_benchmark"]) == (False, False)
    assert (found["torch"], found["threads"]) == (torch.__version__, torch.get_num_threads())


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_is_used_and_described_where_there_is_one(gpu: None, wanted: str) -> None:
    found = device.facts(wanted)
    assert {name: found[name] for name in ("device", *GPU_FIELDS)} == {
        "device": "cuda",
        "gpu": "NVIDIA H200",
        "driver": "580.1",
        "cuda": "13.2",
        "cudnn": "91000",
    }
    assert found["unmeasured"] == {}
    assert found["cudnn_benchmark"]


def test_as_many_devices_may_share_a_run_as_there_are(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.facts("cuda", 4)["device_count"] == 4
    with pytest.raises(BenchError, match="--devices 8, but there are 4 CUDA devices") as caught:
        device.facts("cuda", 8)
    assert "--devices 4 or less" in caught.value.hint
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert device.facts("cpu", 2)["device_count"] == 2
    with pytest.raises(BenchError, match="--devices 4, but there are 2 cores"):
        device.facts("cpu", 4)


def test_the_cpu_can_be_asked_for_where_there_is_a_gpu(gpu: None) -> None:
    found = device.facts("cpu")
    assert (found["device"], found["gpu"]) == ("cpu", None)


def test_a_driver_that_cannot_be_read_is_unknown_with_the_reason(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "driver_version", lambda: (None, "NVML is not installed"))
    found = device.facts("cuda")
    assert found["driver"] is None
    assert found["unmeasured"] == {"driver": "NVML is not installed"}


@pytest.mark.parametrize("wanted", ["gpu", "cuda:1", "CPU", ""])
def test_an_unknown_device_is_a_wrong_use(wanted: str) -> None:
    with pytest.raises(BenchError, match=f"there is no device {wanted!r}") as caught:
        device.facts(wanted)
    assert caught.value.code == 2
    assert "auto, cpu or cuda" in caught.value.hint


def test_a_gpu_that_is_not_there_is_refused(no_gpu: None) -> None:
    with pytest.raises(BenchError, match="torch sees no CUDA device") as caught:
        device.facts("cuda")
    assert caught.value.code == 1
    assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (2, 2), (0, 3)])
def test_threads_are_set_unless_they_are_torchs_own_choice(threads: int, expected: int) -> None:
    torch.set_num_threads(3)
    assert device.set_up("cpu", threads, deterministic=False) == torch.device("cpu")
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_means_no_trying_out_of_algorithms(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "before")
    device.set_up("cpu", 1, deterministic)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.benchmark != deterministic


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert device.set_up("cpu", 1, deterministic=False).type == "cpu"


def test_a_cpu_has_nothing_to_wait_for_and_no_uuids() -> None:
    device.wait_for(torch.device("cpu"))
    assert device.uuids(torch.device("cpu")) == []


def test_the_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 2.0, 10.0, 10.5, 20.0, 24.0, 30.0, 31.0, 40.0, 41.0, 50.0, 51.0])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(readings))
    torch.set_num_threads(1)
    found = device.measured_peak_tflops(torch.device("cpu"), "float32")
    assert found == pytest.approx(2 * 768**3 / 0.5 / 1e12)


def test_measuring_the_peak_leaves_the_global_random_state_alone() -> None:
    torch.set_num_threads(1)
    before = torch.get_rng_state()
    assert device.measured_peak_tflops(torch.device("cpu"), "float32") > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_told_of_the_machine_needs_no_torch_to_be_read() -> None:
    assert {type(value).__module__ for value in device.facts("cpu").values()} == {"builtins"}
