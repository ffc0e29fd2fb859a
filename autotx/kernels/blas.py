"""A shorter spin time for the threads of NumPy's BLAS.

After a product, the threads of OpenBLAS spin for 2^28 cycles, a tenth of a second, in case another product follows, and
take half a core from other threads: a training step of size S right after a product took 1.4 times as long as alone.
With a limit of 2^22 cycles, 1.6 ms, it takes 1.06 times as long. Products less than a millisecond apart are as fast as
before. A later product has to wake the threads: 512 x 512 x 512 after 10 ms usually takes 1.5 ms instead of 1.45,
sometimes 7.
"""

import ctypes
import os
import threading
from pathlib import Path

import numpy as np

VARIABLE, PATIENCE = "OPENBLAS_THREAD_TIMEOUT", "22"  # log2 of the cycles to spin


def stop_spinning():
    """Set the spin time and make OpenBLAS read it. Does nothing if the user has set the variable, if NumPy comes with
    another BLAS, or if other threads are running, since one may be inside a product."""
    if VARIABLE in os.environ or threading.active_count() > 1:
        return
    libraries = Path(np.__file__).parent.parent.glob("numpy.libs/*openblas*")
    for library in (ctypes.CDLL(str(path)) for path in libraries):
        if hasattr(library, "openblas_read_env") and hasattr(library, "blas_thread_shutdown_"):
            os.environ[VARIABLE] = PATIENCE
            library.openblas_read_env()
            library.blas_thread_shutdown_()  # as before a fork; the next product restarts the threads
