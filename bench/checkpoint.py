"""The checkpoint of a run: all that is needed to go on as if nothing had happened.

One file, replaced in one step, so that a crash leaves the old one or the new one. It is read with
weights-only loading: a checkpoint cannot run code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from bench import record

NAME = "checkpoint.pt"


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` (tensors, numbers, text, lists, dicts). BenchError: the disk is full or read-only."""
    path, partial = folder / NAME, folder / f".{NAME}.partial"
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a failing disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise record.unwritable(path, error if isinstance(error, OSError) else OSError(str(error))) from error


def load(folder: Path, **identity: Any) -> dict[str, Any] | None:
    """The checkpoint in `folder`; None where there is none, it cannot be read, or it is of another run."""
    try:
        content = torch.load(folder / NAME, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # damage makes the unpickler stumble in any way it can
        print(f"{folder / NAME} cannot be read ({error}): starting over")
        return None
    if not isinstance(content, dict) or any(content.get(name) != value for name, value in identity.items()):
        print(f"{folder / NAME} is of another run: starting over")
        return None
    return dict(content)


def remove(folder: Path) -> None:
    """Delete the checkpoint of a run that needs none any more."""
    (folder / NAME).unlink(missing_ok=True)
