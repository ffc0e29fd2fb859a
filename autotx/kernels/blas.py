"""NumPy's BLAS, told not to spin for long.

After a product, the threads of OpenBLAS look for the next one for 2^28 cycles, a tenth of a second, and take half a
core from whoever else is at work: a training step of size S that follows a product took 1.4 times as long as one that
does not. They are told to look for 2^22 cycles, 1.6 ms: then it takes 1.06 times as long. Products less than a
millisecond apart are as fast as before; one that comes later has to wake threads up (512 x 512 x 512 after 10 ms: 1.5
ms instead of 1.45 as a rule, at times 7).
"""

import ctypes
import os
import threading
from pathlib import Path

import numpy as np

VARIABLE, PATIENCE = "OPENBLAS_THREAD_TIMEOUT", "22"  # the power of two


def stop_spinning():
    """Let OpenBLAS read its environment again. Nothing happens where the user has set the variable, where NumPy brings
    another BLAS, or where other threads are running: one of them may be inside a product."""
    if VARIABLE in os.environ or threading.active_count() > 1:
        return
    libraries = Path(np.__file__).parent.parent.glob("numpy.libs/*openblas*")
    for library in (ctypes.CDLL(str(path)) for path in libraries):
        if hasattr(library, "openblas_read_env") and hasattr(library, "blas_thread_shutdown_"):
            os.environ[VARIABLE] = PATIENCE
            library.openblas_read_env()
            library.blas_thread_shutdown_()  # what it does before every fork; the next product starts them again
