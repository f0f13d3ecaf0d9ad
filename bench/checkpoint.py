"""The checkpoint of a run: all that is needed to go on as if nothing had happened.

One file, replaced in one step, so that a crash leaves the old one or the new one; the one before it is kept
beside it, in case the disk spoils the last. It is read with weights-only loading: a checkpoint cannot run
code.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench import BenchError, record

NAME = "checkpoint.pt"
BEFORE = "checkpoint-before.pt"
VERSION = 2  # of what train.py puts in: raise it with every change that an older checkpoint does not survive


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors, numbers, text, lists, dicts). BenchError: the disk is full or read-only."""
    path, partial = folder / NAME, folder / f".{NAME}.partial"
    packed = io.BytesIO()  # torch writes to memory: of a full disk it would say something else
    torch.save({**content, "version": VERSION}, packed)
    try:
        with open(partial, "wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, folder / BEFORE)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a disk that is read-only now
            partial.unlink()
        raise record.unwritable(path, error) from error


def load(folder: Path, tidy: bool = True, **identity: Any) -> dict[str, Any] | None:
    """The last checkpoint in `folder` that can be used; None where there is none. One that is damaged, of
    another run or of another version is put aside, if `tidy`: of several devices one does that.

    BenchError: it cannot be had just now, for want of memory or by a fault of the disk.
    """
    for path in (folder / NAME, folder / BEFORE):
        try:
            content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except (OSError, MemoryError) as error:
            hint = "mend the disk or free memory, then run it again"
            raise BenchError(f"cannot read {path}: {error}", hint) from error
        except Exception as error:  # damage makes the unpickler stumble in any way it can
            content, why = None, f"cannot be read ({error})"
        else:
            why = _misfit(content, identity)
        if not why:
            return dict(content)
        if tidy:
            _put_aside(path, why)
    return None


def _misfit(content: Any, identity: Mapping[str, Any]) -> str:
    """Why this is no checkpoint of the run; empty where it is."""
    if not isinstance(content, dict):
        return "is no checkpoint"
    if content.get("version") != VERSION:
        return "is of another version of segbench"
    fits = all(content.get(name) == value for name, value in identity.items())
    return "" if fits else "is of another run"


def _put_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.aside")
    os.replace(path, aside)
    print(f"{path} {why}: not used; it is kept as {aside.name}")


def remove(folder: Path) -> None:
    """Delete the checkpoints of a run that needs none any more."""
    for name in (NAME, BEFORE):
        (folder / name).unlink(missing_ok=True)
