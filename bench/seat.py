"""The place of a process among those that share a run: a process a device, on one machine or several.

On one machine `segbench run --devices N` starts them itself. On several, torchrun starts `segbench run` once
a device and says in the environment which one it is; its store is where they meet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import BenchError

if TYPE_CHECKING:
    from bench.mailbox import Mailbox  # numpy, which the command line does without

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Seat:
    """Process `rank` of `devices`, `local_rank` of the `local_devices` on its own machine.

    `meeting`: the path of a file that is not there yet, or HOST:PORT/KEY of a store that all reach.
    `mailbox`: what processors of one machine talk through, if they were started with one.
    `launched`: by torchrun, so that no process here starts another's.
    """

    rank: int = 0
    devices: int = 1
    local_rank: int = 0
    local_devices: int = 1
    meeting: str = ""
    mailbox: Mailbox | None = None
    launched: bool = False

    def at(self, key: str) -> Seat:
        """The same for one meeting of several: no two runs may meet under one key."""
        return replace(self, meeting=f"{self.meeting}/{key}")


ALONE = Seat()


def on_this_machine(devices: int, folder: Path | None = None, mailbox: Mailbox | None = None) -> list[Seat]:
    """The seats of so many processes that talk through `mailbox`, or else meet in `folder`."""
    meeting = "" if folder is None else str(folder / "meeting")
    return [Seat(rank, devices, rank, devices, meeting, mailbox) for rank in range(devices)]


def launched(environment: Mapping[str, str] = os.environ) -> Seat | None:
    """The seat that torchrun gave this process; None: it was not started by torchrun.

    BenchError: it says only a part, or nothing that can be read.
    """
    said = {name: environment[name] for name in VARIABLES if name in environment}
    if "RANK" not in said and "WORLD_SIZE" not in said:
        return None
    hint = "start it with torchrun, or unset RANK and WORLD_SIZE"
    if missing := [name for name in VARIABLES if name not in said]:
        raise BenchError(f"RANK or WORLD_SIZE is set, but {missing[0]} is not", hint)
    try:
        rank, devices, local_rank, local_devices = (int(said[name]) for name in VARIABLES[:4])
    except ValueError as error:
        raise BenchError(f"RANK, WORLD_SIZE, LOCAL_RANK or LOCAL_WORLD_SIZE: {error}", hint) from None
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    meeting = f"{said['MASTER_ADDR']}:{said['MASTER_PORT']}/{attempt}"
    return Seat(rank, devices, local_rank, local_devices, meeting, launched=True)
