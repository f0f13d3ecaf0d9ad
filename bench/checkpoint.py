"""The checkpoint of a run: all that is needed to go on as if nothing had happened.

One file, replaced in one step, so that a crash leaves the old one or the new one. It is read with
weights-only loading: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from bench import BenchError, record

NAME = "checkpoint.pt"


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors, numbers, text, lists, dicts). BenchError: the disk is full or read-only."""
    path, partial = folder / NAME, folder / f".{NAME}.partial"
    packed = io.BytesIO()  # torch writes to memory: of a full disk it would say something else
    torch.save(content, packed)
    try:
        with open(partial, "wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise record.unwritable(path, error) from error


def load(folder: Path, **identity: Any) -> dict[str, Any] | None:
    """The checkpoint in `folder`; None where there is none, or it was put aside: damaged, or of another run.

    BenchError: it cannot be had just now, for want of memory or by a fault of the disk.
    """
    path = folder / NAME
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, MemoryError) as error:
        hint = "mend the disk or free memory, then run it again"
        raise BenchError(f"cannot read {path}: {error}", hint) from error
    except Exception as error:  # damage makes the unpickler stumble in any way it can
        _put_aside(path, f"cannot be read ({error})")
        return None
    if not isinstance(content, dict) or any(content.get(name) != value for name, value in identity.items()):
        _put_aside(path, "is of another run")
        return None
    return dict(content)


def _put_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.aside")
    os.replace(path, aside)
    print(f"{path} {why}: starting over; it is kept as {aside.name}")


def remove(folder: Path) -> None:
    """Delete the checkpoint of a run that needs none any more."""
    (folder / NAME).unlink(missing_ok=True)
