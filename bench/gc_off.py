"""Imported by the server of processes before torch: see `gc_on`."""

import gc

gc.disable()
