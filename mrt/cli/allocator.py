"""Memory that one update frees is kept for the next.

glibc gives freed memory back to the system as soon as there is some at the end of its heap, and the system hands it out
again page by page, each filled with zeros first. An update on a CPU allocates the same tensors every time: there up to
a third of its time can go into pages.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # as in malloc.h
NEVER = 2**31 - 1  # bytes at the end of the heap that are given back
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # whoever sets one of them has chosen


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed, in this process; whether it does.

    Nothing happens on another C library, or where an environment variable chooses an allocator or its settings.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(SETTINGS) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
