"""Imported by the server of processes after torch, which stays: what is there by now is no garbage.

Python's collector would look at half a million objects again and again while they are imported, and in every
process forked from the server, in the middle of a step: there each look copies the page, some 90 MB in all.
"""

import gc

gc.freeze()
gc.enable()
