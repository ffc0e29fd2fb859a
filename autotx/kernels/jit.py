"""How a kernel is compiled: `@kernel` is `numba.njit` with the settings of autotx and a cache of its own.

A kernel is compiled at its first call and then cached on disk, one file for a kernel and its argument types. The file
name contains a hash of everything that the machine code depends on: the source of the kernel's module and of all kernel
modules that it imports (their kernels may be inlined, which Numba's own cache does not track), the versions of Python
and Numba, and the processor. So no file is ever out of date, and concurrent processes write equal content under equal
names. A file is written completely or not at all; if it is damaged, the kernel is compiled again.

The cache folder is $NUMBA_CACHE_DIR if set, else `__pycache__` beside the kernels, else the user's cache folder. What
is read there is run, so, as with the keys of ssh, folder and files must belong to the user or root, and nobody else may
write them. If there is no such folder, every process compiles its kernels anew, and one warning says so.
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
import uuid
import warnings
from pathlib import Path

import llvmlite.binding
import numba
from numba import types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.extending import intrinsic

from autotx import signals
from autotx.kernels import memory
from autotx.signals import uncut

memory.keep_freed_memory()

# Wrappers for callers in C and in Python took a quarter of the compile time, and few kernels need either.
OPTIONS = {
    "nogil": True, "error_model": "numpy", "boundscheck": False, "no_cfunc_wrapper": True, "no_cpython_wrapper": True,
}  # fmt: skip


def kernel(function=None, *, fastmath=False, from_python=False):
    """Decorate a function: Numba compiles it when it is first needed.

    fastmath: a set of LLVM's flags (for example {"contract", "reassoc"}) or True. from_python: whether Python calls the
    kernel directly, rather than only other kernels and `launches.shared`.
    """
    if function is None:
        return lambda f: kernel(f, fastmath=fastmath, from_python=from_python)
    options = {**OPTIONS, "no_cpython_wrapper": not from_python}
    compiled = numba.njit(**options, fastmath=fastmath)(function)
    if numba.config.DISABLE_JIT:
        return compiled  # the function itself
    flags = sorted(fastmath) if isinstance(fastmath, set) else fastmath  # the order of a set differs between runs
    compiled._cache = _Cache(function, repr({**options, "fastmath": flags}), from_python=from_python)
    return compiled if from_python else _Inner(compiled)


class _Inner:
    """A kernel without a wrapper for Python. Calls from Python raise TypeError; without this class they would crash."""

    def __init__(self, dispatcher):
        functools.update_wrapper(self, dispatcher.py_func)
        self.dispatcher, self._numba_type_ = dispatcher, types.Dispatcher(dispatcher)

    def __call__(self, *arguments):
        raise TypeError(f"{self.__name__}: only kernels call this kernel; declare it with @kernel(from_python=True)")

    def __getattr__(self, name):
        return getattr(self.dispatcher, name)


def compile_for(compiled, signature):
    """Compile a kernel for this signature; later calls convert their arguments to it. Returns the kernel.

    Numba would compile a kernel separately for C-ordered, Fortran-ordered, strided and read-only arrays. A signature
    with a read-only strided array accepts all of them, so the kernel is compiled once.
    """
    if signature.args not in compiled.overloads:
        _link(_files(compiled.py_func, signature))
        with _compiling():
            compiled.disable_compile(False)  # re-enables compiling, which an earlier signature disabled
            compiled.compile(signature)  # returns at once if another thread was here before
            compiled.disable_compile()
    return compiled


@contextlib.contextmanager
def _compiling():
    """In a `with` block, one kernel is compiled, without the garbage collector: with the many objects of the compiler,
    it took a tenth of the time."""
    with uncut():
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


def _before_fork():
    signals.lock.acquire()
    global_compiler_lock.acquire()  # a user's own kernels may be compiled in another thread


def _after_fork():
    global_compiler_lock.release()
    signals.lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def address(compiled, signature):
    """Compile a kernel for this signature. Returns the address of its machine code."""
    compile_for(compiled, signature)
    result = compiled.overloads[signature.args]
    with uncut():  # LLVM's lock is held meanwhile, which a fork would copy
        return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


@intrinsic
def call(typing, function, arguments):
    """In a kernel: call the kernel at an address, which was compiled for a first argument that takes no memory, such as
    None or a tile, and for these types."""

    def generate(context, builder, signature, values):
        given = [builder.extract_value(values[1], i) for i in range(len(arguments))]
        kinds = (types.none, *arguments.types)
        kind = context.call_conv.get_function_type(types.void, kinds)
        callee, nothing = builder.inttoptr(values[0], kind.as_pointer()), context.get_dummy_value()
        context.call_conv.call_function(builder, callee, types.void, kinds, [nothing, *given])
        return nothing

    return types.void(types.int64, arguments), generate


def outlined(*arguments):
    """Decorate a function that kernels call: it is compiled once for these types, not again for each of its callers.

    Numba compiles callees again as parts of each kernel that calls them, which is slow where they are long. Kernels
    call the outlined function as a C function. arguments: the types, a tile and numbers such as addresses; it returns
    nothing.
    """

    def decorate(function):
        tiles = [kind.name for kind in arguments if isinstance(kind, types.Dummy)]
        name = "_".join(["autotx", Path(function.__code__.co_filename).stem, function.__name__, *tiles])
        compiled = CFunc(function, (arguments, types.void), {}, OPTIONS)
        compiled._cache = _Cache(function, repr(OPTIONS))
        _waiting.setdefault(compiled._cache.source, []).append((name, compiled))
        return types.ExternalFunction(name, types.void(*arguments))

    return decorate


_waiting = {}  # source file -> its outlined functions that are not compiled yet: (name, function) pairs


def _files(function, signature):
    """The source files that define a kernel for a signature: its own, and those of the tiles among its arguments."""
    arguments = getattr(signature, "args", signature)  # Numba gives a tuple of types, too
    return Path(function.__code__.co_filename), *(kind.file for kind in arguments if hasattr(kind, "file"))


def _link(files):
    """Compile the outlined functions of the modules that these files depend on, before their kernels are linked.

    The imports of a file outside this folder are not known: for it, all outlined functions are compiled. A function
    that was not compiled stays in `_waiting`: a kernel linked without it would crash.
    """
    for path in _sources(files) if {file.parent for file in files} == {Path(__file__).parent} else list(_waiting):
        while _waiting.get(path):
            with _compiling():
                if waiting := _waiting[path]:  # another thread may have been here before
                    name, compiled = waiting[-1]
                    compiled.compile()
                    llvmlite.binding.add_symbol(name, compiled.address)
                    waiting.pop()


class _Cache(NullCache):
    """The cache of one function's machine code: Numba calls it before and after it compiles for new types."""

    def __init__(self, function, options, from_python=False):
        self.from_python = from_python  # whether Python calls the function directly
        self.function, self.source = function, Path(function.__code__.co_filename)
        self._name = f"{self.source.stem}.{function.__qualname__}".replace("<locals>.", "")
        self._options = options
        self._closed = function.__closure__ is not None  # a closure is not cached: the hash has none of its values
        _text(self.source)  # read now, because the file may be edited before the function is compiled

    @property
    def cache_path(self):
        return str(cache_folder())

    def load_overload(self, signature, target):
        """The machine code for this signature, or None: then Numba compiles."""
        target.refresh()
        if self.from_python:
            _link(_files(self.function, signature))
        path = self._path(signature, target.codegen())
        data = _read(path) if path else None
        if data is not None:
            with contextlib.suppress(Exception):  # what another program stored: compiled again
                return CompileResult._rebuild(target, *pickle.loads(data))
        _announce()
        return None

    def save_overload(self, signature, result):
        path = self._path(signature, result.codegen)
        if path and not result.library.has_dynamic_globals:  # addresses of this process must not reach another
            _write(path, dumps(result._reduce()))

    def _path(self, signature, codegen):
        if self._closed or not self.source.exists():
            return None
        return _kept_path(self._name, codegen, _files(self.function, signature), self._options, str(signature))


def _kept_path(name, codegen, files, *facts):
    """The path of what is made of these source files for the processor of `codegen`; None without a cache folder."""
    parts = _source_hash(files), sys.version, numba.__version__, llvmlite.__version__, *codegen.magic_tuple(), *facts
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return cache_folder() and cache_folder() / f"{name}-{digest[:24]}.kernel"


def remembered(name, file, find):
    """find(), a text, of an earlier process where it is kept, for this processor and as long as `file` and the modules
    that it imports stay the same."""
    path = _kept_path(name, cpu_target.target_context.codegen(), (file,))
    found = path and _read(path)
    if found is None:
        found = find().encode()
        if path:
            _write(path, found)
    return found.decode()


@functools.cache
def _text(path):
    """The text of a source file at the first call, or None if there is no such file."""
    return path.read_text(encoding="utf-8") if path.exists() else None


@functools.cache
def _sources(files):
    """Source files and all kernel modules that they import, directly or indirectly: a dict of path -> text."""
    folder, waiting, texts = Path(__file__).parent, [*files], {}
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
def _source_hash(files):
    return hashlib.sha256(repr(sorted(_sources(files).values())).encode()).hexdigest()


@functools.cache
def cache_folder():
    """The first candidate folder that this user, and nobody else, can write, or None. A warning where it is not the one
    that was asked for."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    candidates = [Path(__file__).parent / "__pycache__", Path(home, "autotx")]
    if asked := os.environ.get("NUMBA_CACHE_DIR"):
        candidates.insert(0, Path(asked, "autotx").absolute())
    for folder in candidates:
        if not folder.is_absolute():  # expanduser leaves "~" for a user without a home folder
            continue
        try:
            folder.mkdir(0o755, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        if is_trusted(folder.stat()):
            return folder
        if asked and folder == candidates[0]:
            warnings.warn(
                f"autotx: no kernels are kept in {folder}, because another user owns it or may write there; "
                "chmod go-w, or set NUMBA_CACHE_DIR to a folder of your own",
                stacklevel=2,
            )
    tried = ", ".join(str(folder) for folder in candidates)
    warnings.warn(
        "autotx: kernels are compiled anew in every process, because no folder to keep them in can be written "
        f"by this user alone (tried {tried}); set NUMBA_CACHE_DIR to one that can",
        stacklevel=2,
    )
    return None


def is_trusted(status: os.stat_result) -> bool:
    """Whether a folder or file belongs to this user or root, and nobody else may write it. On Windows always."""
    return os.name != "posix" or (status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022)


@functools.cache
def _announce():
    """Print, once in a process, why the first step takes long."""
    if cache_folder():
        print(f"autotx: compiling kernels (once; kept in {cache_folder()})", file=sys.stderr)


def has_compiled():
    """Whether a kernel had to be compiled in this process."""
    return _announce.cache_info().currsize > 0


def _read(path):
    """The bytes stored in the file `path`, or None if there is no trusted file or its checksum is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read() if is_trusted(os.fstat(file.fileno())) else b""
    except OSError:
        return None
    checksum, data = content[:32], content[32:]
    return data if _checksum(path, data) == checksum else None


def _checksum(path, data):
    """Of the content and the name, which says for what the content is."""
    return hashlib.sha256(path.name.encode() + data).digest()


def _write(path, data):
    """Store the bytes in the file `path`. Errors, such as a full disk, are ignored: the kernel is just not cached."""
    aside = path.with_suffix(f".{uuid.uuid4().hex[:16]}")
    try:
        with open(aside, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
            file.write(_checksum(path, data) + data)
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
