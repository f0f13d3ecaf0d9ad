"""The pictures of a data set, decoded once: mapped into memory instead of read and decoded at each use.

A cache is a folder of its own, wherever it is read fastest. Its pieces hold pair after pair what
`Dataset.pair` gives, byte for byte; `index.json` says where each lies, its checksum, and the fingerprint of
the data set. Who opens it names that data set, too: a cache of other pictures is refused.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import BenchError, draft
from bench.archive import File, Tell
from bench.dataset import Pair, find_pairs, fingerprint, read_pair, read_size

VERSION = 1
SPLITS = ("training", "validation")
INDEX = "index.json"
PIECE = 2**26  # bytes: what a stopped preparation writes again at most
LINE = 64  # bytes: a pair begins at a multiple, as vector instructions like it
ANY = 255  # classes: what a workload allows is asked of the data set itself


@dataclass(frozen=True)
class Place:
    """Where a pair lies: its picture, four bytes a pixel, then its label. `checksum`: of both."""

    piece: str
    start: int
    width: int
    height: int
    checksum: str = ""

    @property
    def end(self) -> int:
        return self.start + 5 * self.width * self.height


class Cache:
    """A cache, open for reading.

    BenchError: it is none, is damaged, or was made of another data set than `data`.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self._again = folder, f"move it away and type: segbench prepare cache {data} {folder}"
        content = self._index()
        if content["fingerprint"] != fingerprint(data):
            raise BenchError(f"the cache {folder} was made of other pictures than {data} holds", self._again)
        self.places = {key: Place(*row) for key, row in content["pairs"].items()}
        self._pieces = {name: self._map(folder / name, size) for name, size in content["pieces"].items()}

    def pair(self, split: str, name: str) -> Pair:
        """Picture and label as `Dataset.pair` gives them; the system reads what is touched."""
        place = self.places[f"{split}/{name}"]
        content = np.frombuffer(self._pieces[place.piece], np.uint8, place.end - place.start, place.start)
        pixels = place.height * place.width * 4
        return (
            content[:pixels].reshape(place.height, place.width, 4),
            content[pixels:].reshape(place.height, place.width),
        )

    def check(self, tell: Tell) -> None:
        """Read all of it; `tell` is told pairs. BenchError: a pair is not what was written."""
        for done, (key, place) in enumerate(self.places.items(), 1):
            if _sum(memoryview(self._pieces[place.piece])[place.start : place.end]) != place.checksum:
                raise BenchError(f"{key} is damaged in {self.folder / place.piece}", self._again)
            tell(done, len(self.places))

    def _index(self) -> dict[str, Any]:
        path = self.folder / INDEX
        try:
            kept = json.loads(path.read_bytes())
            content = kept["content"]
            if not isinstance(content, dict) or kept["checksum"] != _sum(_written(content)):
                raise ValueError("its checksum is another")
            if content["version"] != VERSION:
                raise ValueError(f"it has version {content['version']}, this segbench {VERSION}")
        except (FileNotFoundError, NotADirectoryError):
            raise BenchError(
                f"{self.folder} is no cache: there is no {INDEX} in it",
                "make one with `segbench prepare cache DATA DEST`, or leave --cache out",
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BenchError(f"{path} cannot be read: {error}", self._again) from error
        return content

    def _map(self, path: Path, size: int) -> mmap.mmap:
        try:
            with path.open("rb") as file:
                if (found := os.fstat(file.fileno()).st_size) != size:
                    raise BenchError(f"{path} has {found:,} bytes, not {size:,}", self._again)
                return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise BenchError(f"{path} cannot be read: {error.strerror or error}", self._again) from error


@dataclass(frozen=True)
class Plan:
    """What a cache will be: `files` in the order in which they are to be written, their bytes together, and
    how many pairs each split has."""

    files: list[File]
    size: int
    pairs: Mapping[str, int]


def plan(data: Path) -> Plan:
    """The cache of `data`. BenchError: it is no data set. To read its files raises what ails a picture."""
    before = fingerprint(data)
    pairs = {split: find_pairs(data, split) for split in SPLITS}
    paths = {f"{split}/{pair[0].stem}": pair for split in SPLITS for pair in pairs[split]}
    places: dict[str, Place] = {}  # with their checksums, as the pieces are made
    pieces: dict[str, list[str]] = {}
    for key, place in _lay_out({key: read_size(label) for key, (_, label) in paths.items()}).items():
        places[key] = place
        pieces.setdefault(place.piece, []).append(key)
    sizes = {piece: places[keys[-1]].end for piece, keys in pieces.items()}

    def decode(piece: str) -> bytes:
        content = bytearray(sizes[piece])
        for key in pieces[piece]:
            place, (pixels, label) = places[key], read_pair(*paths[key], ANY)
            if label.shape != (place.height, place.width):
                raise _changed(data)
            content[place.start : place.end] = pixels.tobytes() + label.tobytes()
            checksum = _sum(memoryview(content)[place.start : place.end])
            places[key] = Place(piece, place.start, place.width, place.height, checksum)
        return bytes(content)

    def index() -> bytes:
        if fingerprint(data) != before:
            raise _changed(data)
        rows = {key: astuple(place) for key, place in places.items()}
        content = {"version": VERSION, "fingerprint": before, "pieces": sizes, "pairs": rows}
        return json.dumps({"checksum": _sum(_written(content)), "content": content}).encode()

    files = [File(piece, size, partial(decode, piece)) for piece, size in sizes.items()]
    files.append(File(INDEX, 128 * len(places), index))
    return Plan(files, sum(file.size for file in files), {split: len(pairs[split]) for split in SPLITS})


def _lay_out(sizes: Mapping[str, tuple[int, int]]) -> dict[str, Place]:
    """A place for pairs of these widths and heights, one after another."""
    places, piece, start = {}, 0, 0
    for key, size in sizes.items():
        if start >= PIECE:
            piece, start = piece + 1, 0
        places[key] = place = Place(f"piece-{piece:05d}", start, *size)
        start = -(-place.end // LINE) * LINE
    return places


def _sum(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _written(content: Mapping[str, Any]) -> bytes:
    """The content of an index as its checksum sees it."""
    return json.dumps(content, sort_keys=True).encode()


def _changed(data: Path) -> BenchError:
    return BenchError(f"{data} changed while it was read", f"leave it alone, {draft.GO_ON}")
