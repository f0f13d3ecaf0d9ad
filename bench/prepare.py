"""Data made ready for `segbench run`: ADE20K and CamVid in the layout of ADE20K, and the cache of a data set.

All are a list of files, each read from where it came and given its place; nothing else differs. The list is
checked before anything is written, the folder is verified before it gets its name: what has its name is
whole.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bench import BenchError, archive, download, draft, verification, workload
from bench.archive import Archive, File, Source, Watch
from bench.cache import Cache
from bench.cache import plan as plan_cache
from bench.dataset import SUFFIXES

Pairs = Mapping[str, int]  # split -> pictures that have a label

ADE20K = Archive(
    name="ADEChallengeData2016.zip",
    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    elsewhere="Other ways to it: https://sceneparsing.csail.mit.edu, https://ade20k.csail.mit.edu "
    "(register), or search for ADEChallengeData2016.zip, SHA-1 219e1696abb36c8ba3a3afe7fb2f4b4606a897c7; "
    "then type: segbench prepare ade20k FILE DEST",
    md5="7328b3957e407ddae1d3cbf487f149ef",
    sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
ADE20K_PAIRS: Pairs = {"training": 20_210, "validation": 2_000}
CAMVID_PAIRS: Pairs = {"training": 367, "validation": 101}

CAMVID_SPLITS = {"train": "training", "val": "validation"}
CAMVID_VOID = 11


@dataclass(frozen=True)
class Prepared:
    """A data set that is ready: how many pairs each split has, whether it was there before, and the archive
    that was fetched for it."""

    pairs: Pairs
    before: bool = False
    archive: Path | None = None


def ade20k(
    source: Path | None,
    dest: Path,
    watch: Watch,
    published: Archive = ADE20K,
    pairs: Pairs = ADE20K_PAIRS,
) -> Prepared:
    """Make `dest` ADE20K, from the published archive or a folder that it was unpacked to; None: fetch it.

    BenchError: the source is something else, or `dest` cannot be made; what is done so far stays beside it.
    """
    if _is_ready("ade20k", source, dest, watch):
        return Prepared(pairs, before=True)
    fetched = None
    if source is None:
        source = fetched = download.fetch(published, dest.absolute().parent, watch)
    elif os.path.isfile(source):
        archive.check(source, published, watch(f"checksums of {source.name}", "bytes"))
    with archive.open_source(source) as opened:
        _make("ade20k", dest, _ade20k_files(opened, source), pairs, source, watch)
    return Prepared(pairs, archive=fetched)


def camvid(source: Path, dest: Path, watch: Watch, pairs: Pairs = CAMVID_PAIRS) -> Prepared:
    """Make `dest` CamVid, from a folder or zip of the copy that comes with SegNet.

    BenchError: the source is something else, or `dest` cannot be made; what is done so far stays beside it.
    """
    if _is_ready("camvid", source, dest, watch):
        return Prepared(pairs, before=True)
    with archive.open_source(source) as opened:
        _make("camvid", dest, _camvid_files(opened, source), pairs, source, watch)
    return Prepared(pairs)


def cache(data: Path, dest: Path, watch: Watch) -> Prepared:
    """Make `dest` the cache of the data set `data`, or see that it is and that nothing in it is damaged.

    BenchError: a picture cannot be used, or `dest` is something else, damaged, or cannot be made; what is
    done so far stays beside it.
    """
    wanted = plan_cache(data)
    if _is_taken("cache", dest):
        Cache(dest, data).check(watch(f"checksums of {dest}", "pairs"))
        return Prepared(wanted.pairs, before=True)
    with draft.open_draft(dest.resolve()) as folder:
        folder.fill(wanted.files, watch(f"writing {dest}, {wanted.size / 1e9:.1f} GB", "files"))
        try:
            Cache(folder.folder, data).check(watch("checksums", "pairs"))
        except BenchError as error:
            raise BenchError(error.message, f"see that the disk is sound, {draft.GO_ON}") from error
        folder.publish()
    return Prepared(wanted.pairs)


def _is_taken(name: str, dest: Path) -> bool:
    """Whether something has the name `dest`. BenchError: nothing can be made there."""
    with draft.writing(dest):
        if dest.resolve().is_mount():  # "." is one by its own account, whatever it is
            raise BenchError(f"{dest} is the top of a disk", f"name a folder in it as DEST: {dest / name}")
    if draft.is_taken(dest):
        return True
    if (whole := dest.resolve()) == Path.cwd():  # a rename would leave the shell in a folder that is gone
        raise BenchError(f"DEST {dest} is the folder you are in", f"cd .. and name it as DEST: {whole}")
    return False


def _is_ready(name: str, source: Path | None, dest: Path, watch: Watch) -> bool:
    """Whether `dest` is this data set already. BenchError: it can never be made there of this source."""
    if source is not None and source.resolve() in (dest.resolve(), *dest.resolve().parents):
        raise BenchError(f"DEST {dest} lies in SOURCE {source}", "name a DEST outside of SOURCE")
    elsewhere = "name a folder that is not there yet as DEST, or move it away"
    if not _is_taken(name, dest):
        return False
    if not all((dest / kind).is_dir() for kind in ("images", "annotations")):
        raise BenchError(f"{dest} is there and is no data set", elsewhere)
    try:
        _verify(name, dest, watch)
    except BenchError as error:
        raise BenchError(f"{dest} is there and is not {name}: {error.message}", elsewhere) from error
    return True


def _make(name: str, dest: Path, files: list[File], pairs: Pairs, source: Path, watch: Watch) -> None:
    """Write the files beside `dest`, verify them, and rename."""
    _check_pairs(files, pairs, source)
    with draft.open_draft(dest.resolve()) as folder:
        folder.fill(files, watch(f"writing {dest}", "files"))
        try:
            _verify(name, folder.folder, watch)
        except BenchError as error:
            mend = f"mend what is wrong in {source} or get it again, {draft.GO_ON}"
            raise BenchError(error.message, mend) from error
        folder.publish()


def _verify(name: str, folder: Path, watch: Watch) -> None:
    verification.verify(folder, workload.load(name), watch("verifying", "pairs"))


def _check_pairs(files: Iterable[File], pairs: Pairs, source: Path) -> None:
    """Refuse a picture without its label, and any other number of pictures than `pairs`."""
    stems: dict[str, set[str]] = {}  # folder -> names without endings
    for file in files:
        path = PurePosixPath(file.name)
        stems.setdefault(str(path.parent), set()).add(path.stem)
    for split, wanted in pairs.items():
        pictures, labels = (stems.get(f"{kind}/{split}", set()) for kind in ("images", "annotations"))
        if lonely := sorted(pictures - labels):
            raise BenchError(
                f"{lonely[0]} of the {split} pictures in {source} has no label ({len(lonely)} in all)",
                "get the data set again: it is not whole",
            )
        if len(pictures) != wanted:
            raise BenchError(
                f"{source} holds {len(pictures):,} {split} pictures, not {wanted:,}",
                "get the data set again: it is not whole, or another version",
            )


# ---------------------------------------------------------------------------------- where things lie in them


def _ade20k_files(source: Source, path: Path) -> list[File]:
    """As they are, with the lists of objects and scenes that lie beside them."""
    folders = [f"{kind}/{split}" for kind in ("images", "annotations") for split in ADE20K_PAIRS]
    top = _find_top(source, path, "ADEChallengeData2016", folders)
    lists = [file for file in source.files(top) if file.name.endswith(".txt")]
    return lists + [
        replace(file, name=f"{folder}/{file.name}")
        for folder in folders
        for file in _pictures(source, top + folder)
    ]


def _camvid_files(source: Source, path: Path) -> list[File]:
    """Pictures as they are; labels 0 to 10 become 1 to 11, and void becomes 0."""
    top = _find_top(source, path, "CamVid", [each + kind for each in CAMVID_SPLITS for kind in ("", "annot")])
    files = []
    for theirs, ours in CAMVID_SPLITS.items():
        for file in _pictures(source, top + theirs):
            files.append(replace(file, name=f"images/{ours}/{file.name}"))
        for file in _pictures(source, f"{top}{theirs}annot"):
            read = _relabelled(file.read, f"{theirs}annot/{file.name} in {path}")
            files.append(File(f"annotations/{ours}/{file.name}", file.size, read))
    return files


def _find_top(source: Source, path: Path, name: str, folders: list[str]) -> str:
    """What to put before the folders: "", or the way to the folder `name`, which may lie one deeper, too."""
    tops = ["", f"{name}/", *(f"{each}/{name}/" for each in source.folders())]
    there = {top: [folder for folder in folders if source.files(top + folder)] for top in tops}
    best = max(tops, key=lambda top: len(there[top]))
    if missing := [folder for folder in folders if folder not in there[best]]:
        raise BenchError(
            f"{path} does not hold {name}: there are no pictures in {best}{missing[0]}",
            f"name the folder that holds {', '.join(folders)}, or an archive of it",
        )
    return best


def _pictures(source: Source, folder: str) -> list[File]:
    return [file for file in source.files(folder) if PurePosixPath(file.name).suffix.lower() in SUFFIXES]


def _relabelled(read: Callable[[], bytes], what: str) -> Callable[[], bytes]:
    """Reads a label picture of CamVid, and gives it in the numbers of ADE20K."""

    def read_ours() -> bytes:
        try:
            with Image.open(io.BytesIO(read())) as image:
                mode, labels = image.mode, np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:  # PIL's words for a damaged file
            raise BenchError(f"{what} cannot be read as a picture: {error}", "get it again") from error
        if mode not in ("L", "P") or labels.max() > CAMVID_VOID:
            found = f"label {labels.max()}" if mode in ("L", "P") else f"mode {mode}"
            raise BenchError(
                f"{what} has {found}; labels are 8-bit gray, 0 to {CAMVID_VOID}",
                "take the labels of the copy that comes with SegNet, not the coloured ones",
            )
        ours = io.BytesIO()
        Image.fromarray((labels + 1) % (CAMVID_VOID + 1)).save(ours, "PNG")
        return ours.getvalue()

    return read_ours
