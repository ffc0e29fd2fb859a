"""How a kernel is compiled: `@kernel` is `numba.njit` with the settings of this house, and with a cache of its own.

A kernel is compiled when it is first called, and kept on disk: one file for a kernel and the types it was called with,
named after everything its machine code depends on: the source of ALL kernels (one is compiled into another, which
Numba's own cache does not notice), the versions of Python and Numba, and the processor. So a file is never out of date,
and processes that start together can only write the same thing under the same name. Files are written whole or not at
all; one that cannot be read is compiled again.

The folder is $NUMBA_CACHE_DIR where that is set, or `__pycache__` beside the kernels, or the user's cache folder. Where
none can be written, kernels are compiled for the running process alone, and one warning says so.
"""

import functools
import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import llvmlite
import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

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
    compiled = numba.njit(**options)(function)
    if not numba.config.DISABLE_JIT:  # then `compiled` is the plain function
        compiled._cache = _Cache(function, repr(sorted(options.items(), key=str)))
    return compiled


def compile_for(compiled, signature):
    """Compile a kernel for this signature alone; arguments are converted to it from now on.

    Numba would compile anew for a C-ordered, a Fortran-ordered, a strided and a read-only array. A signature that asks
    for a read-only strided array takes all of them, so the kernel is compiled once.
    """
    compiled.compile(signature)
    compiled.disable_compile()
    return compiled


class _Cache(NullCache):
    """What Numba asks before it compiles one function for new types, and tells afterwards."""

    def __init__(self, function, options):
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._options = options

    @property
    def cache_path(self):
        return str(_folder())

    def load_overload(self, signature, target):
        """The machine code for this signature, or None: then Numba compiles."""
        target.refresh()
        path = self._path(signature, target.codegen())
        data = _read(path) if path else None
        if data is None:
            _announce()
            return None
        return CompileResult._rebuild(target, *pickle.loads(data))

    def save_overload(self, signature, result):
        path = self._path(signature, result.codegen)
        if path and not result.library.has_dynamic_globals:  # addresses of this process must not reach another
            _write(path, dumps(result._reduce()))

    def _path(self, signature, codegen):
        folder = _folder()
        if folder is None:
            return None
        parts = _source_hash(), sys.version, numba.__version__, llvmlite.__version__, *codegen.magic_tuple()
        digest = hashlib.sha256(repr((*parts, self._options, str(signature))).encode()).hexdigest()
        return folder / f"{self._name}-{digest[:24]}.kernel"


@functools.cache
def _source_hash():
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


@functools.cache
def _folder():
    """The first of the possible folders that can be written, or None after a warning."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    candidates = [Path(__file__).parent / "__pycache__", Path(home, "autotx")]
    if os.environ.get("NUMBA_CACHE_DIR"):
        candidates.insert(0, Path(os.environ["NUMBA_CACHE_DIR"], "autotx"))
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    tried = ", ".join(str(folder) for folder in candidates)
    warnings.warn(
        f"autotx: kernels are compiled anew in every process, because no folder for them can be written (tried {tried}); "
        "set NUMBA_CACHE_DIR to one that can",
        stacklevel=2,
    )
    return None


@functools.cache
def _announce():
    """Say, once in a process, why the first step waits."""
    if _folder():
        print(f"autotx: compiling kernels (once; kept in {_folder()})", file=sys.stderr)


def _read(path):
    """The bytes kept under `path`, or None where there are none or they are damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, data = content[:32], content[32:]
    return data if hashlib.sha256(data).digest() == checksum else None


def _write(path, data):
    """Keep the bytes under `path`. A full disk, or a file that another process holds open, costs the cache alone."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(hashlib.sha256(data).digest() + data)
    except OSError:
        return
    try:
        os.replace(file.name, path)
    except OSError:
        os.unlink(file.name)
