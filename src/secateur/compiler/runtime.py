"""Engines: compiled networks that run with numpy alone."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from secateur.arguments import PATH, SOURCE, checked, whole
from secateur.compiler import artifact
from secateur.compiler.artifact import Info
from secateur.compiler.ports import Array, Port, address
from secateur.errors import CompileError, FileError, UsageError, printable
from secateur.errors import whole as is_whole

_loads = itertools.count()


class Engine:
    """A compiled network.

    Called with one array for each input, in order, or with one mapping from input names to arrays,
    it returns the output, or a tuple of them. Arrays must have the dtype and the shape that the
    network was compiled for; where the network is batched, the first axis may have any extent. An
    array that is not contiguous is copied. A network of float16 or bfloat16 takes and gives
    float32; these are taken as well, wherever float32 is. NaN is not looked for: it goes through
    the network as arithmetic has it.

    Threads may share an engine: one call at a time has all of its threads, others run alone beside
    it. The outputs do not depend on the number of threads.
    """

    @checked(source=SOURCE)
    def __init__(self, source: Path | str | bytes, threads: int | None = None) -> None:
        """Load an engine; see `load`."""
        if threads is not None and not (is_whole(threads) and 1 <= threads <= 1024):
            raise UsageError(f"an engine has 1 to 1024 threads, not {threads!r}")
        content = source if isinstance(source, bytes) else Path(source)
        self._info = artifact.read(content)
        artifact.check(self._info)
        network = self._info.network
        self._inputs = tuple(map(Port, network["inputs"]))
        self._merged = set(network.get("merged", ()))
        self._outputs = tuple(
            Port(port, port["name"] in self._merged) for port in network["outputs"]
        )
        self._batched = bool(network["batched"])
        self._native: _Native | None = _Native(content, self._info, threads or 0)
        self._threads = self._native.threads()
        self._pointers = ctypes.c_void_p * len(self._inputs), ctypes.c_void_p * len(self._outputs)

    @classmethod
    @checked(path=PATH)
    def load(cls, path: Path | str, threads: int | None = None) -> Engine:
        """Load an engine file. It holds machine code: load only what you trust.

        Args:
            path: what `secateur compile` wrote.
            threads: at most so many work on a call; None means one for each physical core that
                this process may use.

        Raises:
            FileError: the file is missing, truncated, corrupted, or not an engine.
            CompileError: it was compiled for another machine, or cannot be loaded.
            UsageError: a number of threads that cannot be.
        """
        return cls(Path(path), threads)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Run the network on arrays in the order of its inputs, or on a dict of them by name.

        Raises:
            UsageError: wrong names, shapes or dtypes, an input that picks from an axis has an index
                outside of it, or the engine is closed.
            CompileError: there is not enough memory.
        """
        if named:
            raise UsageError(
                f"an engine has no argument {next(iter(named))!r}; give arrays in the order of its "
                "inputs, or one dict of them by name"
            )
        native, given, outputs, batch = self._prepare(arrays)
        if batch and (code := native.run(*self._addresses(given, outputs), batch)):
            self._fail(native, code, given)
        if self._merged:
            pairs = zip(self._outputs, outputs, strict=True)
            outputs = [port.merge(array) for port, array in pairs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @checked(repeats=whole(1, "at least 1, a whole number"))
    def profile(self, *arrays: Any, repeats: int = 1) -> list[tuple[str, float]]:
        """Return each step of the network and its seconds, on average of some runs.

        The batch is run by the one program that would run most of it.

        Raises:
            UsageError: wrong names, shapes or dtypes, an empty batch, or the engine is closed.
            CompileError: there is not enough memory.
        """
        native, given, outputs, batch = self._prepare(arrays)
        if not batch:
            raise UsageError("an empty batch takes no time; give at least one sample")
        code, program, steps = native.profile(*self._addresses(given, outputs), batch, repeats)
        if code:
            self._fail(native, code, given)
        names = _step_names(self._info.network, program)
        if len(names) != len(steps):  # it was not described; its C knows operators alone
            return steps
        return [(name, seconds) for name, (_, seconds) in zip(names, steps, strict=True)]

    @property
    def info(self) -> dict[str, Any]:
        """What the engine is, ready for JSON: of the network, and of what it was compiled for."""
        info = self._info
        return {
            **info.network,
            "target": info.target,
            "features": list(info.features),
            "bytes": info.bytes,
        }

    @property
    def threads(self) -> int:
        """How many threads work on a call."""
        return self._threads

    def close(self) -> None:
        """Free threads and memory, once calls that are under way have ended; no harm if twice."""
        self._native = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise UsageError(
            "an engine is memory and threads of this process, and cannot be copied or pickled; "
            "load its file again where it is needed"
        )

    def __repr__(self) -> str:
        ports = ", ".join(f"{printable(p.name)}: {p.describe(self._batched)}" for p in self._inputs)
        name = printable(str(self._info.network.get("name", "")))
        return (
            f"<Engine {name}({ports}) for {self._info.target}, "
            f"threads: {self._threads}, {self._info.bytes:,} bytes>"
        )

    def _prepare(self, arrays: Sequence[Any]) -> tuple[_Native, list[Array], list[Array], int]:
        """Return the library, the inputs as C wants them, empty outputs, and the batch."""
        native = self._native  # our own reference: `close` in another thread cannot take it away
        if native is None:
            raise UsageError("this engine is closed; load it again")
        if (
            len(arrays) == 1
            and type(arrays[0]) is not np.ndarray
            and isinstance(arrays[0], Mapping)
        ):
            arrays = self._in_order(arrays[0])
        if len(arrays) != len(self._inputs):
            names = ", ".join(port.name for port in self._inputs)
            packed = len(arrays) == 1 and isinstance(arrays[0], (list, tuple))
            raise UsageError(
                f"the network has {len(self._inputs)} inputs ({names}), but {len(arrays)} arrays "
                f"were given{'; give each by itself: engine(*arrays)' if packed else ''}"
            )
        try:
            batched = self._batched
            given = [
                port.check(array, batched) for port, array in zip(self._inputs, arrays, strict=True)
            ]
            batch = len(given[0]) if batched and given else native.fixed
            if batched and len(given) > 1 and any(len(array) != batch for array in given):
                sizes = ", ".join(
                    f"{port.name!r} has {len(array)}"
                    for port, array in zip(self._inputs, given, strict=True)
                )
                raise UsageError(f"all inputs must have the same number of samples, but {sizes}")
            many = batch if batched else None
            outputs = [port.empty(many) for port in self._outputs]
        except MemoryError as error:
            raise CompileError(
                "the engine cannot run: out of memory for the arrays; give fewer samples at once"
            ) from error
        return native, given, outputs, batch

    def _in_order(self, given: Mapping[str, Any]) -> list[Any]:
        names = [port.name for port in self._inputs]
        if set(given) != set(names):
            missing = sorted(map(repr, set(names) - set(given)))
            unknown = sorted(map(repr, set(given) - set(names)))
            parts = [f"{', '.join(missing)} missing"] if missing else []
            parts += [f"{', '.join(unknown)} unknown"] if unknown else []
            known = ", ".join(map(repr, names))
            raise UsageError(f"the inputs are {known}: {'; '.join(parts)}")
        return [given[name] for name in names]

    def _fail(self, native: _Native, code: int, given: Sequence[Array]) -> None:
        for port, array in zip(self._inputs, given, strict=True):
            port.refuse_outside(array)
        raise CompileError(f"the engine cannot run: {native.error_text(code)}")

    def _addresses(self, given: Sequence[Array], outputs: Sequence[Array]) -> tuple[Any, Any]:
        inputs, results = self._pointers
        return inputs(*map(address, given)), results(*map(address, outputs))


class _Native:
    """The C side: a library, and one engine of it. Freed when nobody refers to it any more."""

    def __init__(self, source: Path | bytes, info: Info, threads: int) -> None:
        library, leftover = _open(source)
        try:
            self._functions = _functions(library)
            error = ctypes.c_char_p()
            self._engine = self._functions["create"](threads, ctypes.byref(error))
            if not self._engine:
                why = (error.value or b"unknown error").decode()
                raise CompileError(f"cannot load an engine for {info.target}: {why}")
        except BaseException:
            _close(library._handle, leftover)
            raise
        destroy = self._functions["destroy"], self._engine
        end = weakref.finalize(self, _destroy, *destroy, library._handle, leftover)
        end.atexit = False  # threads that still run it then must not find it gone
        self._run = self._functions["run"]
        self.fixed = int(self._functions["fixed_batch"]())

    def threads(self) -> int:
        return int(self._functions["threads"](self._engine))

    def run(self, inputs: Any, outputs: Any, batch: int) -> int:
        """Return 0, or the code of an error."""
        return int(self._run(self._engine, inputs, outputs, batch))

    def profile(
        self, inputs: Any, outputs: Any, batch: int, repeats: int
    ) -> tuple[int, int, list[tuple[str, float]]]:
        """Return 0 or an error's code, which program ran, and its steps' names in C and seconds."""
        call = self._functions
        program = call["program_for"](batch)
        count = call["steps"](program)
        seconds = (ctypes.c_double * count)()
        code = call["profile"](self._engine, inputs, outputs, batch, repeats, seconds, program)
        names = (call["step_name"](program, k).decode(errors="replace") for k in range(count))
        return code, program, list(zip(names, seconds, strict=True))

    def error_text(self, code: int) -> str:
        return str(self._functions["error_text"](code).decode())


def _step_names(network: Mapping[str, Any], program: int) -> list[str]:
    """Return what an engine's description calls the steps of a program, the layer in each."""
    try:
        return [str(step["name"]) for step in network["steps"][program]]
    except (LookupError, TypeError):
        return []


def _functions(library: ctypes.CDLL) -> dict[str, Any]:
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "create": (pointer, (integer, ctypes.POINTER(ctypes.c_char_p))),
        "destroy": (None, (pointer,)),
        "run": (integer, (pointer, pointer, pointer, size)),
        "error_text": (ctypes.c_char_p, (integer,)),
        "threads": (integer, (pointer,)),
        "fixed_batch": (size, ()),
        "steps": (size, (size,)),
        "step_name": (ctypes.c_char_p, (size, size)),
        "program_for": (size, (size,)),
        "profile": (integer, (*[pointer] * 3, size, integer, pointer, size)),
    }
    found = {}
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"secateur_{name}", None)
        if function is None:
            raise FileError(f"this engine lacks the function {name}; compile it again")
        function.restype, function.argtypes = result, arguments
        found[name] = function
    return found


def _open(source: Path | bytes) -> tuple[ctypes.CDLL, Path | None]:
    """Return a library, and a file that is to be removed once it is closed."""
    path = source if isinstance(source, Path) else _temporary(source)
    leftover = None if path is source else path
    try:
        library = ctypes.CDLL(_unseen(path))
    except OSError as error:
        if leftover:
            leftover.unlink()
        raise CompileError(f"the system cannot load this engine: {error}") from error
    if leftover and sys.platform != "win32":  # there a library in use cannot be removed
        leftover.unlink()
        leftover = None
    return library, leftover


def _temporary(content: bytes) -> Path:
    path = None
    try:
        descriptor, name = tempfile.mkstemp(prefix="secateur-", suffix=".engine")
        path = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        if path:
            path.unlink(missing_ok=True)
        raise FileError(
            f"cannot write a temporary file in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; free some space, or set TMPDIR to another folder"
        ) from error
    return path


def _unseen(path: Path) -> str:
    """Return a spelling of a path that was not used before.

    Loaders take a library for one that is loaded already when its path is, even if the file has
    been replaced; they also compare files, so the same file is still loaded only once.
    """
    absolute = path.absolute()
    if sys.platform == "win32":  # a file in use cannot be replaced there
        return str(absolute)
    bits = f"{next(_loads):b}".replace("0", "./").replace("1", ".//")
    return f"{absolute.parent}/{bits}{absolute.name}"


def _destroy(destroy: Any, engine: int, library: int, leftover: Path | None) -> None:
    destroy(engine)
    _close(library, leftover)


def _close(library: int, leftover: Path | None) -> None:
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library)
    else:
        _ctypes.dlclose(library)
    if leftover:
        leftover.unlink(missing_ok=True)
