"""How long does it take to look at a whole ADE20K, 20,210 + 2,000 pairs, from a cold start?

    python benchmarks/verification.py --pairs ../shared/data/ade20k-sample [--folder DIR] [--rounds 3]

Copies the pairs found below `--pairs` (images/*.jpg and annotations/*.png) in turn under ADE20K's names
until there are as many, into a scratch folder on the disk of `--folder`. Each round forgets what was
verified, writes the caches out and, where this process may, drops them. Prints the seconds of each round,
beside them those of reading the same bytes and of looking again at what is remembered.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import machine, verification, workload

COUNTS = {"training": ("train", 20_210), "validation": ("val", 2_000)}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--pairs", type=Path, required=True)
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        data = Path(scratch) / "data"
        size = copy(chosen.pairs, data)
        print(f"22,210 pairs, {size / 1e9:.2f} GB, {len(machine.usable_cores())} cores")
        for number in range(1, chosen.rounds + 1):
            os.environ["SEGBENCH_CACHE"] = f"{scratch}/cache-{number}"  # nothing is remembered
            start = "cold" if forget() else "warm (caches cannot be dropped)"
            verified = timed(data)
            again = timed(data)
            forget()
            began = time.perf_counter()
            for path in files(data):
                path.read_bytes()
            read = time.perf_counter() - began
            print(
                f"round {number}, {start}: verify {verified:.1f} s   again {again:.2f} s   read {read:.1f} s"
            )


def copy(pairs: Path, data: Path) -> int:
    """Bytes of the whole set that is made at `data`. SystemExit: there are no pairs."""
    images = sorted((pairs / "images").rglob("*.jpg"))
    if not images:
        raise SystemExit(f"there are no pairs below {pairs}")
    size = 0
    for split, (short, count) in COUNTS.items():
        for kind in ("images", "annotations"):
            (data / kind / split).mkdir(parents=True)
        for index in range(count):
            image = images[index % len(images)]
            label = pairs / "annotations" / image.relative_to(pairs / "images").with_suffix(".png")
            for source, kind in ((image, "images"), (label, "annotations")):
                name = f"ADE_{short}_{index + 1:08}{source.suffix}"
                shutil.copyfile(source, data / kind / split / name)
                size += source.stat().st_size
    return size


def forget() -> bool:
    """Whether the kernel's copies of files could be dropped."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def timed(data: Path) -> float:
    """Seconds of one verification."""
    began = time.perf_counter()
    verification.verify(data, workload.load("ade20k"))
    return time.perf_counter() - began


def files(data: Path) -> Iterator[Path]:
    return (path for path in data.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
