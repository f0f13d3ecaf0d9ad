"""The device that a run computes on: found, described, set up, measured."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Collection
from typing import Any

import torch
import torchvision
from torch import Tensor

from bench import BenchError, machine, nvml, vitals

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
KERNEL_S = 0.6
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def facts(wanted: str, devices: int = 1) -> dict[str, Any]:
    """The machine's fields of a record for so many devices of `wanted` (auto, cpu or cuda), with reasons in
    `unmeasured`.

    auto is cuda where torch sees a GPU. BenchError: there are not so many, or an unknown name.
    """
    device = _resolve(wanted)
    _count(device, devices)
    cuda = device == "cuda"
    driver, problem = nvml.driver_version() if cuda else (None, "the run used no GPU")
    found = {
        **machine.host_facts(),
        "device": device,
        "device_count": devices,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "driver": driver,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": _cudnn() if cuda else None,
        "torch": str(torch.__version__),  # its own class: who reads it would import torch
        "torchvision": torchvision.__version__,
        "threads": torch.get_num_threads() if cuda else max(1, torch.get_num_threads() // devices),
        "tf32": cuda and torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": cuda,
    }
    found["unmeasured"] = {
        name: problem if name == "driver" else "not known on this machine" if cuda else "the run used no GPU"
        for name in ("gpu", "driver", "cuda", "cudnn")
        if found[name] is None
    }
    return found


def set_up(
    device: str, threads: int, deterministic: bool, cores: Collection[int] = (), rank: int = 0
) -> torch.device:
    """Settle what this process, number `rank` of its run, computes with, before it computes anything.

    `threads` 0 is torch's own number; `cores` are those the process is pinned to, none: any.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    if threads:
        torch.set_num_threads(threads)
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    _keep_freed_memory()
    if device == "cpu":
        return torch.device(device)
    torch.cuda.set_device(rank)
    return torch.device(device, rank)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on the device, which is not waited for: a GPU fetches from pinned memory when it gets there,
    while from other memory the driver may first finish all that is queued."""
    pinned = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=True)


def wait_for(device: torch.device) -> None:
    """Return when all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def uuids(device: torch.device, devices: int = 1) -> list[str]:
    """UUIDs of the CUDA devices of the run, for NVML."""
    if device.type == "cpu":
        return []
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(devices)]


def measured_peak_tflops(device: torch.device, precision: str) -> float:
    """The fastest of a few large square matrix products in float32, tf32, bf16 or fp16; TFLOP/s."""
    size = 8192 if device.type == "cuda" else 768
    own = torch.Generator(device)  # the global stream belongs to the run
    a = torch.randn(size, size, device=device, generator=own).to(HALF.get(precision, torch.float32))
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, precision == "tf32"
    best = float("inf")
    for _ in range(6):
        wait_for(device)
        began = time.perf_counter()
        a @ a
        wait_for(device)
        best = min(best, time.perf_counter() - began)
    torch.backends.cuda.matmul.allow_tf32 = before
    if device.type == "cuda":
        del a
        torch.cuda.empty_cache()  # it would count as memory of the run
    return 2 * size**3 / best / 1e12


def examine(wanted: str, devices: int = 1) -> dict[str, Any]:
    """What `doctor` wants to know of a process that has torch. BenchError: as for `facts`.

    A kernel is timed over and over on each device (`kernel_ms`); `others_pct` and `stolen_pct` of the cores
    went elsewhere meanwhile, and `cards` are what the GPUs were like under it (`cards_problem`: why there are
    none).
    """
    found = facts(wanted, devices)
    cuda = found["device"] == "cuda"
    places = [torch.device("cuda", index) for index in range(devices)] if cuda else [torch.device("cpu")]
    window = vitals.Window()
    times = [time_kernel(place) for place in places]
    others, stolen = window.close()
    gpus = nvml.Gpus(uuids(places[0], devices), time.monotonic)
    cards = []
    if gpus.devices:
        for place in places:
            time_kernel(place, seconds=0.0, queue=50)
        cards = gpus.look({os.getpid()})
    gpus.close()
    return {
        "facts": found,
        "torchvision_cuda": _torchvision_cuda(),
        "torch_cuda": torch.version.cuda,
        "kernel_ms": times,
        "others_pct": others,
        "stolen_pct": stolen,
        "cards": cards,
        "cards_problem": gpus.problem,
    }


def time_kernel(device: torch.device, seconds: float = KERNEL_S, queue: int = 0) -> list[float]:
    """Times of one convolution, made over and over for so many seconds, ms; then `queue` more of them, which
    nobody waits for."""
    count, channels, side = (64, 256, 64) if device.type == "cuda" else (8, 64, 48)
    own = torch.Generator(device)  # the global stream belongs to the run
    images = torch.randn(count, channels, side, side, device=device, generator=own)
    weight = torch.randn(channels, channels, 3, 3, device=device, generator=own)
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(3):  # the first ones choose an algorithm and take memory
            torch.nn.functional.conv2d(images, weight, padding=1)
        wait_for(device)
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            torch.nn.functional.conv2d(images, weight, padding=1)
            wait_for(device)
            times.append(1e3 * (time.perf_counter() - began))
        for _ in range(queue):
            torch.nn.functional.conv2d(images, weight, padding=1)
    return times


def _torchvision_cuda() -> str | None:
    """Version of CUDA that torchvision was built with, which writes 13.0 as 13000."""
    number = getattr(torchvision.version, "cuda", None)
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}" if number else None


def _cudnn() -> str:
    try:
        return str(torch.backends.cudnn.version())
    except RuntimeError as error:  # what was found is not what torch was built with
        raise BenchError(
            f"cuDNN does not match torch: {error}",
            "unset LD_LIBRARY_PATH, or install torch anew: pip install --force-reinstall torch torchvision",
        ) from error


def _resolve(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise BenchError(f"there is no device {wanted!r}", "use --device auto, cpu or cuda", code=2)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BenchError("torch sees no CUDA device here", "use --device cpu, or check `nvidia-smi`")
    return wanted


def _count(device: str, devices: int) -> None:
    """BenchError: there are not so many devices."""
    if device == "cuda":
        found, what = torch.cuda.device_count(), "CUDA device"
    else:
        found, what = len(machine.usable_cores()), "core"
    if devices > found:
        are, plural = ("is", "") if found == 1 else ("are", "s")
        raise BenchError(
            f"--devices {devices}, but there {are} {found} {what}{plural}",
            f"use --devices {found} or less: a run is the same on any number of them",
        )


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of handing them back: training on a CPU, and the workers that
    are forked from here, free and take the same ones all the time, and the kernel would clear every page
    anew. Other C libraries are left as they are."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, 1 << 30)
