"""How a kernel is compiled: `@kernel` is `numba.njit` with the settings of this house, and with a cache of its own.

A kernel is compiled when it is first called, and kept on disk: one file for a kernel and the types it was called with,
named after everything its machine code depends on: the source of its module and of the kernel modules that one imports
(kernels are compiled into one another, which Numba's own cache does not notice), the versions of Python and Numba, and
the processor. So a file is never out of date, and processes that start together can only write the same thing under the
same name. Files are written whole or not at all; a damaged one is compiled again.

The folder is $NUMBA_CACHE_DIR where that is set, or `__pycache__` beside the kernels, or the user's cache folder. Where
none can be written, kernels are compiled for the running process alone, and one warning says so.
"""

import ast
import contextlib
import functools
import gc
import hashlib
import os
import pickle
import sys
import tempfile
import threading
import uuid
import warnings
from pathlib import Path

import llvmlite.binding
import numba
from numba import types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from autotx.kernels import memory

memory.keep_freed_memory()

_compiling = threading.RLock()


# An entry for callers in C and one for Python took a quarter of the time to compile, and hardly a kernel needs either.
OPTIONS = {
    "nogil": True, "error_model": "numpy", "boundscheck": False, "no_cfunc_wrapper": True, "no_cpython_wrapper": True,
}  # fmt: skip


def kernel(function=None, *, fastmath=False, from_python=False):
    """Compile `function` with Numba when it is first needed.

    fastmath: a set of LLVM's flags (for example {"contract", "reassoc"}) or True. from_python: whether Python calls it,
    not just other kernels, or `threads.shared`.
    """
    if function is None:
        return lambda f: kernel(f, fastmath=fastmath, from_python=from_python)
    options = {**OPTIONS, "no_cpython_wrapper": not from_python}
    compiled = numba.njit(**options, fastmath=fastmath)(function)
    if numba.config.DISABLE_JIT:
        return compiled  # the plain function
    flags = sorted(fastmath) if isinstance(fastmath, set) else fastmath  # a set's order changes from run to run
    compiled._cache = _Cache(function, repr({**options, "fastmath": flags}), outermost=from_python)
    return compiled if from_python else _Inner(compiled)


class _Inner:
    """A kernel that has no entry for Python: called there all the same, it would take the process down."""

    def __init__(self, dispatcher):
        functools.update_wrapper(self, dispatcher.py_func)
        self.dispatcher, self._numba_type_ = dispatcher, types.Dispatcher(dispatcher)

    def __call__(self, *arguments):
        raise TypeError(f"{self.__name__}: only kernels call this kernel; declare it with @kernel(from_python=True)")

    def __getattr__(self, name):
        return getattr(self.dispatcher, name)


def compile_for(compiled, signature):
    """Compile a kernel for this signature alone; arguments are converted to it from now on.

    Numba would compile anew for a C-ordered, a Fortran-ordered, a strided and a read-only array. A signature that asks
    for a read-only strided array takes all of them, so the kernel is compiled once.
    """
    with _compiling:  # threads that come here together: one compiles
        if signature.args not in compiled.overloads:
            with _garbage_kept():
                compiled.disable_compile(False)  # which it is after another signature
                _link(Path(compiled.py_func.__code__.co_filename))
                compiled.compile(signature)
            compiled.disable_compile()
    return compiled


@contextlib.contextmanager
def _garbage_kept():
    """Python looks for no garbage inside: among all that compiling makes, that took a tenth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def address(compiled, signature):
    """Compile a kernel for this signature alone and return the address of its machine code."""
    compile_for(compiled, signature)
    result = compiled.overloads[signature.args]
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def outlined(*arguments):
    """Decorate a function that kernels call: it is compiled once for these types, not into each of its callers.

    Numba compiles what a kernel calls into the kernel, so a long body costs its compile time again in each one. The
    result is called in kernels, like a function of C: a tile and numbers go in, such as addresses, and nothing comes
    out.
    """

    def decorate(function):
        tiles = [kind.name for kind in arguments if isinstance(kind, types.Dummy)]
        name = "_".join(["autotx", Path(function.__code__.co_filename).stem, function.__name__, *tiles])
        compiled = CFunc(function, (arguments, types.void), {}, OPTIONS)
        compiled._cache = _Cache(function, repr(OPTIONS))
        _waiting.setdefault(compiled._cache.source, []).append((name, compiled))
        return types.ExternalFunction(name, types.void(*arguments))

    return decorate


_waiting = {}  # source file -> the outlined functions there that no kernel has asked for yet


def _link(source):
    """Compile the outlined functions of the modules that this source depends on: its kernels are about to be linked.

    What a source elsewhere imports is not known, so all of them may be meant. A function that stays without its
    symbol, as after a Ctrl-C, would take the process down: it waits on.
    """
    for path in _sources(source) if source.parent == Path(__file__).parent else list(_waiting):
        waiting = _waiting.pop(path, [])
        try:
            while waiting:
                name, compiled = waiting[-1]
                compiled.compile()
                llvmlite.binding.add_symbol(name, compiled.address)
                waiting.pop()
        finally:
            if waiting:
                _waiting[path] = waiting


class _Cache(NullCache):
    """What Numba asks before it compiles one function for new types, and tells afterwards."""

    def __init__(self, function, options, outermost=False):
        self.outermost = outermost  # not compiled for another kernel
        self.source = Path(function.__code__.co_filename)
        self._name = f"{self.source.stem}.{function.__qualname__}".replace("<locals>.", "")
        self._options = options
        self._closed = function.__closure__ is not None  # values from around the function, which no name can tell apart
        _text(self.source)  # now: when it is compiled, the file may have been edited

    @property
    def cache_path(self):
        return str(cache_folder())

    def load_overload(self, signature, target):
        """The machine code for this signature, or None: then Numba compiles."""
        target.refresh()
        if self.outermost:
            _link(self.source)
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
        folder = cache_folder()
        if folder is None or self._closed or not self.source.exists():
            return None
        parts = _source_hash(self.source), sys.version, numba.__version__, llvmlite.__version__, *codegen.magic_tuple()
        digest = hashlib.sha256(repr((*parts, self._options, str(signature))).encode()).hexdigest()
        return folder / f"{self._name}-{digest[:24]}.kernel"


@functools.cache
def _text(path):
    """A source file's text as it was when this was first asked, or None where there is no file."""
    return path.read_text(encoding="utf-8") if path.exists() else None


@functools.cache
def _sources(source):
    """A source file and the kernel modules that it imports, directly or not, with their texts."""
    folder, waiting, texts = Path(__file__).parent, [source], {}
    while waiting:
        path = waiting.pop()
        if path in texts or _text(path) is None:  # `from autotx.kernels.tile import multiply`: there is no multiply.py
            continue
        texts[path] = _text(path)
        for node in ast.walk(ast.parse(texts[path])):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("autotx.kernels"):
                names = [node.module.rpartition(".")[2], *(alias.name for alias in node.names)]
                waiting += [folder / f"{name}.py" for name in names]
    return texts


@functools.cache
def _source_hash(source):
    return hashlib.sha256(repr(sorted(_sources(source).values())).encode()).hexdigest()


@functools.cache
def cache_folder():
    """The first of the possible folders that can be written, or None after a warning."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    candidates = [Path(__file__).parent / "__pycache__", Path(home, "autotx")]
    if os.environ.get("NUMBA_CACHE_DIR"):
        candidates.insert(0, Path(os.environ["NUMBA_CACHE_DIR"], "autotx").absolute())
    for folder in candidates:
        if not folder.is_absolute():  # "~" stays as it is for a user without a home
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    tried = ", ".join(str(folder) for folder in candidates)
    warnings.warn(
        "autotx: kernels are compiled anew in every process, because no folder to keep them in can be written "
        f"(tried {tried}); set NUMBA_CACHE_DIR to one that can",
        stacklevel=2,
    )
    return None


@functools.cache
def _announce():
    """Say, once in a process, why the first step waits."""
    if cache_folder():
        print(f"autotx: compiling kernels (once; kept in {cache_folder()})", file=sys.stderr)


def has_compiled():
    """Whether a kernel had to be compiled in this process."""
    return _announce.cache_info().currsize > 0


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
    aside = path.with_suffix(f".{uuid.uuid4().hex[:16]}")
    try:
        aside.write_bytes(hashlib.sha256(data).digest() + data)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
