"""Shared memory through which the processes of one machine hand each other small packets.

Batch norm over several devices exchanges a few hundred bytes some fifty times a step, and on a CPU a socket
takes longer to wake its reader than a layer takes to compute. Here every process writes its packet into a
slot of its own and posts it to all others, who look for it before they go to sleep.

A process has two slots, used in turn. Nobody can be two rounds ahead of another, since a round ends only when
all have posted, so a slot is never written while somebody still reads it.
"""

from __future__ import annotations

import os
import time
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np

ROOM = 1 << 20  # bytes of a slot
LOOK_S = 0.002  # how long to look for the others before going to sleep: they do the same work
ALONE_S = 0.0001  # after so long of it let others have the core: one of them may be who is waited for
SLEEP_S = 1.0  # at a time
TIMEOUT_S = 600.0  # as long as an evaluation may keep the others busy

Array = np.ndarray[Any, Any]


class Mailbox:
    """Slots and semaphores for so many processes; sent to each while it is started."""

    def __init__(self, context: BaseContext, processes: int) -> None:
        self._memory = context.RawArray("B", 2 * processes * ROOM)
        self._posts = [context.Semaphore(0) for _ in range(processes)]  # of each: packets posted to it
        self._round = 0
        self._slots: dict[tuple[int, tuple[int, ...], np.dtype[Any]], Array] = {}  # of those laid out so far

    def swap(self, rank: int, packet: Array) -> Array:
        """(processes, *shape): what all processes say, in the order of ranks; to be read before the next.

        `packet`: what `rank`, this process, says; all say as many bytes. ValueError: more than ROOM.
        TimeoutError: somebody does not answer.
        """
        kind = self._round % 2, packet.shape, packet.dtype
        if (slots := self._slots.get(kind)) is None:
            slots = self._slots[kind] = self._lay_out(*kind)
        self._round += 1
        slots[rank] = packet
        for other, posts in enumerate(self._posts):
            if other != rank:
                posts.release()
        for _ in self._posts[1:]:  # of whichever round: who posts the next has had everybody's of this one
            self._await(rank)
        return slots

    def _lay_out(self, turn: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """(processes, *shape): the slots of all, in the one turn or the other."""
        each: Array = np.ndarray(shape, dtype)
        if each.nbytes > ROOM:
            raise ValueError(f"a packet of {each.nbytes} bytes does not fit into {ROOM}")
        count = len(self._posts)
        strides = ROOM, *each.strides
        return np.ndarray((count, *shape), dtype, self._memory, turn * count * ROOM, strides)

    def _await(self, rank: int) -> None:
        posts, began = self._posts[rank], time.perf_counter()
        while not posts.acquire(block=False):
            waited = time.perf_counter() - began
            if waited < LOOK_S:
                if waited > ALONE_S:
                    os.sched_yield()
                continue
            # the kernel counts a sleep by the wall clock, which may be set: short ones, and our own clock
            while not posts.acquire(timeout=SLEEP_S):
                if time.perf_counter() > began + TIMEOUT_S:
                    raise TimeoutError(
                        f"device {rank} has waited {TIMEOUT_S:.0f} s for the others of its run"
                    )
            return
