"""Look at every pair of a data set once, before anything trains on it, and remember that it was sound.

What only shows when a file is decoded (a picture cut off, a label too high) would otherwise end a run hours
later. All of it is decoded here, by all cores; names, sizes and times of the files say whether it still is
what was looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from bench import BenchError, machine, record, scenes
from bench.dataset import check_pair, find_pairs, find_pictures, look
from bench.workload import Workload

VERSION = 2  # of the look: raise it when it sees more
SPLITS = {"training": "train_images", "validation": "val_images"}
SHOWN = 3
OWN = "use a workload of your own with the number of its pictures"

Pair = tuple[Path, Path]
Tell = Callable[[int, int], None]  # pairs looked at, pairs in all


def verify(folder: Path, work: Workload, tell: Tell | None = None) -> None:
    """Return if `folder` is the data set that `work` wants; costs next to nothing the second time.

    BenchError, with the file: another layout, a picture without label, another number of pictures than the
    workload states, and whatever `dataset.check_pair` refuses. An exception of `tell` ends it.
    """
    pairs = find(folder, work)
    classes = len(work.values["data"]["classes"])
    seal = _seal(pairs, classes)
    if seal.exists():
        return
    _read_all(pairs, classes, tell)
    with suppress(BenchError):  # a cache that cannot be written costs another look, no more
        record.write_atomic(seal, json.dumps({"data": str(folder), "pairs": len(pairs)}) + "\n")


def find(folder: Path, work: Workload) -> list[Pair]:
    """All pairs of the data set, unopened. BenchError: layout or numbers are not what `work` wants."""
    data = work.values["data"]
    without = f" (without {len(data['leave_out'])} that it leaves out)" if data["leave_out"] else ""
    found = {split: find_pairs(folder, split, data["leave_out"]) for split in SPLITS}
    fits = all(len(found[split]) == data[key] for split, key in SPLITS.items())
    strays = None if fits else _strays(folder, data["leave_out"])
    for split, key in SPLITS.items():
        if data[key] and len(found[split]) != data[key]:
            raise BenchError(
                f"{folder} has {len(found[split])} pictures for {split}{without}, "
                f"but {work.name} has {data[key]}{f'; its {strays.message}' if strays else ''}",
                strays.hint if strays else f"complete the data set, or {OWN}",
            )
    if strays:
        raise strays
    return [pair for split in SPLITS for pair in found[split]]


def is_verified(pairs: Iterable[Pair], work: Workload) -> bool:
    """Whether these pairs, as they are now, were found sound before."""
    return _seal(pairs, len(work.values["data"]["classes"])).exists()


def _strays(folder: Path, leave_out: Iterable[str]) -> BenchError | None:
    """What is wrong where a name that is to be left out is none of a picture."""
    pictures = [path for split in SPLITS for path in find_pictures(folder, split)]
    names, files = {path.stem for path in pictures}, {path.name for path in pictures}
    strays = [name for name in leave_out if name not in names]
    if not strays:
        return None
    more = f" (and {len(strays) - 1} more)" if len(strays) > 1 else ""
    hint = f"mend the name in the workload's [data] leave_out, complete the data set, or {OWN}"
    if strays[0] in files:
        hint = f'write it in the workload\'s [data] leave_out without its ending: "{Path(strays[0]).stem}"'
    return BenchError(f"leave_out names {strays[0]}{more}, which is no picture of {folder}", hint)


def _seal(pairs: Iterable[Pair], classes: int) -> Path:
    """The file that says that these pairs, as they are now, were found sound.

    It knows files by their place in the data set and by inode, so that a folder may be renamed, as `prepare`
    does once it is verified, while a copy is looked at again.
    """
    digest = hashlib.sha256(f"{VERSION} {classes}\n".encode())
    for path in (path for pair in pairs for path in pair):
        found = look(path)
        times = found.st_mtime_ns, found.st_ctime_ns  # the latter cannot be set back
        known = ("/".join(path.parts[-3:]), found.st_ino, found.st_size, *times)
        digest.update(f"{known}\n".encode(errors="replace"))
    return scenes.cache_folder() / "verified" / f"{digest.hexdigest()[:32]}.json"


def _read_all(pairs: list[Pair], classes: int, tell: Tell | None) -> None:
    """Decode all pairs, a thread a core: Pillow decodes without Python's lock."""

    def fault(pair: Pair) -> BenchError | None:
        try:
            check_pair(*pair, classes)
        except BenchError as error:
            return error
        return None

    faults = []
    workers = ThreadPoolExecutor(len(machine.usable_cores()))
    try:
        for done, error in enumerate(workers.map(fault, pairs), start=1):
            if error is not None:
                faults.append(error)
            if tell is not None:
                tell(done, len(pairs))
    finally:
        workers.shutdown(cancel_futures=True)
    if faults:
        raise _summary(faults)


def _summary(faults: list[BenchError]) -> BenchError:
    """The first fault, and how many pairs have one."""
    if len(faults) == 1:
        return faults[0]
    others = "; ".join(error.message for error in faults[1:SHOWN])
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return BenchError(f"{faults[0].message} ({len(faults)} pairs are not sound)", f"also: {others}{more}")
