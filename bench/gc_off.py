"""Imported by the server of processes before torch: see `gc_on`.

At its end nothing is taken apart: nobody needs that, and of what the collector was kept from libraries say
that it was leaked, in many lines.
"""

import atexit
import gc
import os


def _leave(server: int) -> None:
    if os.getpid() == server:  # processes forked from it end on their own
        os._exit(0)


gc.disable()
atexit.register(_leave, os.getpid())
