"""Memory that one update frees is kept for the next.

glibc gives large blocks back to the system as soon as they are freed, and the system hands them out again page by page,
each filled with zeros first. An update of a language model on a CPU allocates the same large tensors every time: there
a fifth to a half of the time can go into pages.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # as in malloc.h
NEVER = 2**31 - 1  # bytes at the end of the heap that are given back
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # whoever sets one of them has chosen


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed, in this process, and says whether it did.

    Nothing happens on another C library, or where an environment variable chooses an allocator or its settings. A
    process holds at any time the most that it needed so far, and some more for blocks that fit nowhere.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(SETTINGS) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
