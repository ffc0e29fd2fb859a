"""How a kernel is compiled: `@kernel` is `numba.njit` with the settings of this house.

A kernel is compiled when it is first called and kept on disk. Where no folder can be written, it is compiled for this
process alone and one warning says so.
"""

import warnings

import numba

from autotx.kernels import threads  # chooses the thread pool before the first parallel kernel is compiled

threads.choose_pool()


def kernel(function=None, *, parallel=False, fastmath=False):
    """Compile `function` with Numba when it is first called.

    parallel: loops over `prange` are shared out among the threads; a chunk is a piece of the shape, never of the
    thread count, so that results do not depend on how many threads there are.
    fastmath: a set of LLVM's flags (for example {"contract", "reassoc"}) or True.
    """
    if function is None:
        return lambda f: kernel(f, parallel=parallel, fastmath=fastmath)
    options = dict(parallel=parallel, fastmath=fastmath, nogil=True, error_model="numpy", boundscheck=False)
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:  # Numba found no folder that it may write its cache to
        warnings.warn(f"autotx: kernels are compiled anew in every process ({error})", stacklevel=2)
        return numba.njit(**options)(function)
