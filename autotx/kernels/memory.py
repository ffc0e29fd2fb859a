"""Memory that is freed is kept for the next array.

A training step makes the same arrays again and again. glibc gives a large one back to the system when it is freed, and
the next is then made of fresh pages, which the system fills with zeros one by one as they are first touched: for the
GELU of a small GPT (1.5 MB) that took six times as long as the GELU. Told to, glibc keeps what is freed: a training
step takes 28 % less time at size S and 11 % less at M, for 3 % more memory at its peak. Arrays above 32 MB, the most
that glibc can be told, still come fresh. Where there is no glibc, nothing changes.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_freed_memory():
    """Let glibc keep freed memory in this process, in blocks of up to 32 MB. Nothing happens without glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
