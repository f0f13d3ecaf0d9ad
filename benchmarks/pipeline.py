"""What does a training sample cost, from files to what the trainer receives?

    python benchmarks/pipeline.py --pairs ../shared/data/ade20k-sample [--rounds 12] [--out FILE]

Crops of 512 x 512 of the pairs found below `--pairs` (images/*.jpg and annotations/*.png), in turn, on one
core with one thread. Each pair has so many names that all together do not fit a processor's cache, once they
are decoded, as a data set would not. Taking turns, each in a process of its own:

- segbench's batches, the same from a prepared cache, and "colour": the same and what is left to the device,
  mirroring, colour and normalisation, up to what the model takes;
- the floor: the decoding of image and label and the resizing of windows as large, by the same libraries;
- mmsegmentation's pipeline without its photometric step, and "colour": with it and its data preprocessor,
  which normalises; with the allocator as it comes and, as segbench sets it, keeping what was freed (they need
  the extra `peers`). It keeps the ratio of a picture, which segbench does not, and resizes all of it.

Prints the machine, the versions, milliseconds a sample of each round, and the ratios, round by round: median
and quartiles.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import prepare

CROP, BATCH, NAMES = 512, 12, 120

Sample = Callable[[int], Any]  # does one step of the work, which is so many samples


def lay_out(pairs: Path, folder: Path) -> tuple[Path, int]:
    """A data set of NAMES pairs that are links to those below `pairs`; and how many these are."""
    images = sorted((pairs / "images").rglob("*.jpg"))
    for split in ("training", "validation"):
        for number in range(NAMES if split == "training" else 1):
            image = images[number % len(images)]
            label = (pairs / "annotations" / image.relative_to(pairs / "images")).with_suffix(".png")
            for kind, path in (("images", image), ("annotations", label)):
                link = folder / kind / split / f"{number:04d}{path.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
    return folder, len(images)


def batches(data: Path, colour: bool = False, cached: bool = False) -> tuple[Sample, int]:
    """segbench's: a batch, written where the trainer takes it from; if asked, as the model takes it."""
    import torch

    from bench.batches import Batches
    from bench.cache import Cache
    from bench.dataset import Dataset

    decoded = partial(Cache(data.parent / "cache", data).pair, "training") if cached else None
    dataset = Dataset(data, "training", ["any"] * 150, in_memory=False, decoded=decoded)
    source = Batches(dataset, CROP, BATCH, 0)
    kept = source.make(0)

    def step(number: int) -> None:
        source.fill(number, kept)
        if colour:
            kept.on(torch.device("cpu"))

    return step, BATCH


def floor(data: Path) -> tuple[Sample, int]:
    """Decode both and resize the windows that `batches` shows, and nothing else."""
    import numpy as np
    import simplejpeg
    from cykooz_resizer.rust_lib import PilImageWrapper
    from kornia_rs.io import decode_image_png_u8

    from bench.dataset import find_pairs
    from bench.streams import AUGMENT, stream
    from bench.transform import BILINEAR, DRAWS, NEAREST, RESIZER, see

    content = [[path.read_bytes() for path in pair] for pair in find_pairs(data, "training")]
    boxes, into = [], {}
    for index in range(1000):
        draws = stream(0, AUGMENT, 0, index).random(DRAWS)
        side = round(CROP * (0.5 + 1.5 * draws[0]))
        extent = min(side, CROP)
        top, left = (int(draw * (side - extent + 1)) for draw in draws[2:4])
        boxes.append((side, extent, top, left))
        if extent not in into:
            into[extent] = see(np.zeros((extent, extent, 4), np.uint8), np.zeros((extent, extent), np.uint8))

    def step(number: int) -> None:
        side, extent, top, left = boxes[number % 1000]
        image, png = content[number % NAMES]
        pixels = simplejpeg.decode_jpeg(image, "RGBX")
        pair = see(pixels, decode_image_png_u8(png, pixels.shape[:2], "mono")[:, :, 0])
        width, height = pair[1].width / side, pair[1].height / side
        box = left * width, top * height, 0.999 * extent * width, 0.999 * extent * height
        for each, target, how in zip(pair, into[extent], (BILINEAR, NEAREST), strict=True):
            RESIZER.resize_pil(PilImageWrapper(each), PilImageWrapper(target), how.set_crop_box(*box))

    return step, 1


def mmsegmentation(data: Path, colour: bool) -> tuple[Sample, int]:
    """Its training pipeline of ADE20K up to what its trainer is given, or with colour what its model is."""
    from unittest.mock import MagicMock

    for name in ("mmcv._ext", "mmcv.ops"):  # compiled operations, of which none is used
        sys.modules[name] = MagicMock(__spec__=None, __path__=[])
    warnings.simplefilter("ignore")
    import cv2
    from mmengine.dataset import Compose
    from mmseg.models import SegDataPreProcessor
    from mmseg.utils import register_all_modules

    from bench.dataset import find_pairs

    cv2.setNumThreads(1)
    register_all_modules(init_default_scope=True)
    steps: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "RandomResize", "scale": (2048, CROP), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (CROP, CROP), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        *([{"type": "PhotoMetricDistortion"}] if colour else []),
        {"type": "PackSegInputs"},
    ]
    pipeline = Compose(steps)
    mean, deviation = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    preprocess = SegDataPreProcessor(mean, deviation, size=(CROP, CROP), bgr_to_rgb=True, seg_pad_val=255)
    paths = [(str(image), str(label)) for image, label in find_pairs(data, "training")]

    def step(number: int) -> None:
        image, label = paths[number % NAMES]
        described = {"img_path": image, "seg_map_path": label, "reduce_zero_label": True, "seg_fields": []}
        made = pipeline(described)
        if colour:
            preprocess({name: [each] for name, each in made.items()}, training=True)

    return step, 1


SIDES: dict[str, Callable[[Path], tuple[Sample, int]]] = {
    "segbench": batches,
    "segbench, cache": partial(batches, cached=True),
    "segbench, colour": partial(batches, colour=True),
    "floor": floor,
    "mmseg": partial(mmsegmentation, colour=False),
    "mmseg, colour": partial(mmsegmentation, colour=True),
    "mmseg, kept memory": partial(mmsegmentation, colour=False),
    "mmseg, colour, kept memory": partial(mmsegmentation, colour=True),
}
RATIOS = [
    ("segbench", "floor"),
    ("mmseg", "segbench"),
    ("mmseg, colour", "segbench, colour"),
    ("mmseg", "segbench, cache"),
    ("mmseg, kept memory", "segbench"),
    ("mmseg, colour, kept memory", "segbench, colour"),
    ("mmseg, kept memory", "segbench, cache"),
]


PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "simplejpeg",
    "kornia-rs",
    "cykooz-resizer",
    "mmsegmentation",
    "mmcv-lite",
)


def surroundings() -> dict[str, str]:
    """The machine, and the version of all that takes part; without mmsegmentation where there is none."""
    from bench import machine

    facts = machine.host_facts()
    found = {
        "processor": f"one core of {facts['cpu']}",
        "segbench": f"{facts['git_commit']}{' with changes' if facts['git_dirty'] else ''}",
        "python": facts["python"],
    }
    installed = {re.sub("[._]", "-", each.name.lower()): each.version for each in metadata.distributions()}
    opencv = [name for name in installed if name.startswith("opencv-")]  # it comes under several names
    return found | {name: installed[name] for name in (*PACKAGES, *opencv) if name in installed}


def work(side: str, data: Path, samples: int, line: Any) -> None:
    """A process that measures whenever it is told to, and sends seconds a sample."""
    import torch

    from bench import device

    torch.set_num_threads(1)
    if not side.startswith("mmseg") or side.endswith("kept memory"):
        device.set_up("cpu", 1, False)
    step, each = SIDES[side](data)
    done = 0
    for _ in range(max(3, 12 // each)):
        step(done)
        done += 1
    line.send("ready")
    while line.recv():
        began = time.perf_counter()
        for _ in range(-(-samples // each)):
            step(done)
            done += 1
        line.send((time.perf_counter() - began) / (-(-samples // each) * each))


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--pairs", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--images", type=int, default=60, help="samples of a side and round")
    arguments.add_argument("--out", type=Path, help="a JSON file for the figures of every round")
    chosen = arguments.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    with tempfile.TemporaryDirectory() as place:
        data, pairs = lay_out(chosen.pairs, Path(place) / "data")
        prepare.cache(data, Path(place) / "cache", lambda *_: lambda *_: None)
        measure(chosen, data, pairs)


def measure(chosen: argparse.Namespace, data: Path, pairs: int) -> None:
    """All sides in turn, printed and written."""
    around = surroundings()
    print(
        f"{pairs} pairs under {NAMES} names; "
        + ", ".join(f"{name} {version}" for name, version in around.items())
    )
    context = multiprocessing.get_context("spawn")
    lines = {}
    for side in SIDES:
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(side, data, chosen.images, theirs), daemon=True).start()
        theirs.close()
        try:
            lines[side] = ours if ours.recv() == "ready" else None
        except EOFError:
            print(f"{side}: not measured, see above (pip install -e '.[peers]')", flush=True)
    rounds: list[dict[str, float]] = []
    for number in range(chosen.rounds):
        order = list(lines) if number % 2 == 0 else list(lines)[::-1]
        found = {}
        for side in order:
            lines[side].send(True)
            found[side] = lines[side].recv()
        rounds.append(found)
        print(
            f"round {number + 1}: "
            + "   ".join(f"{side} {1000 * found[side]:.2f}" for side in lines)
            + " ms a sample",
            flush=True,
        )
    for line in lines.values():
        line.send(False)
    for one, other in RATIOS:
        if one in lines and other in lines:
            ratios = [each[one] / each[other] for each in rounds]
            quarter, _, three_quarters = statistics.quantiles(ratios, n=4, method="inclusive")
            print(
                f"{one} / {other}: median {statistics.median(ratios):.2f} "
                f"({quarter:.2f} to {three_quarters:.2f}), n = {len(ratios)} rounds of {chosen.images}"
            )
    if chosen.out:
        what = f"seconds a sample, a row a round of {chosen.images} samples; {pairs} pairs in turn"
        kept = {"what": what, "with": around, "rounds": rounds}
        chosen.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
