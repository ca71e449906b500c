"""What can be compiled for: processors, systems, and what their vectors are like."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from secateur.errors import UsageError

SUFFIXES: Mapping[str, str] = MappingProxyType(
    {"linux": ".so", "macos": ".dylib", "windows": ".dll", "wasi": ".wasm"}
)
"""System → what a library's file name ends with."""


@dataclass(frozen=True)
class Target:
    """A processor and a system.

    Attributes:
        name: as `--target` takes it.
        system: linux, macos, windows or wasi.
        architecture: x86_64, aarch64, armv7, riscv64, wasm32, or what the machine calls itself.
        lanes: floats of 32 bits in a vector. registers: vector registers.
        flags: of the compiler, for generated code; the runtime is compiled without them.
        triple: what ziglang calls it; "" means this machine, and its own compiler.
        static: what ziglang calls it where a program is linked with all that it needs.
        gnu_flags: the same flags as `flags`, as gcc and clang spell them, for a Makefile.
        features: instruction sets that it needs, as Linux spells them.
        matrix: whether its code may use matrix instructions, where a processor has them.
    """

    name: str
    system: str
    architecture: str
    lanes: int
    registers: int
    flags: tuple[str, ...] = ()
    triple: str = ""
    static: str = ""
    gnu_flags: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    matrix: bool = False

    @property
    def suffix(self) -> str:
        """What a library's file name ends with."""
        return SUFFIXES[self.system]

    @property
    def kind(self) -> str:
        """What is built: a shared library or a wasm module."""
        return "wasm module" if self.system == "wasi" else "shared library"


_V2 = ("pni", "ssse3", "sse4_1", "sse4_2", "popcnt")
_V3 = (*_V2, "movbe", "abm", "bmi1", "bmi2", "avx", "f16c", "fma", "avx2")
_V4 = (*_V3, "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl")

_CROSS = (
    Target(
        *("x86_64-v3", "linux", "x86_64", 8, 16, ("-march=x86_64_v3",)),
        *("x86_64-linux-gnu.2.17", "x86_64-linux-musl", ("-march=x86-64-v3",), _V3),
    ),
    Target(
        *("x86_64-v4", "linux", "x86_64", 16, 32, ("-march=x86_64_v4",)),
        *("x86_64-linux-gnu.2.17", "x86_64-linux-musl", ("-march=x86-64-v4",), _V4),
    ),
    Target(
        *("x86_64-v3-vnni", "linux", "x86_64", 8, 16, ("-march=x86_64_v3+avxvnni",)),
        *("x86_64-linux-gnu.2.17", "x86_64-linux-musl", ("-march=x86-64-v3", "-mavxvnni")),
        (*_V3, "avx_vnni"),
    ),
    Target(
        *("x86_64-v4-vnni", "linux", "x86_64", 16, 32, ("-march=x86_64_v4+avx512vnni",)),
        *("x86_64-linux-gnu.2.17", "x86_64-linux-musl", ("-march=x86-64-v4", "-mavx512vnni")),
        (*_V4, "avx512_vnni"),
    ),
    Target(
        *("aarch64-linux", "linux", "aarch64", 4, 32),
        *((), "aarch64-linux-gnu.2.17", "aarch64-linux-musl"),
    ),
    Target(
        *("aarch64-dotprod", "linux", "aarch64", 4, 32, ("-mcpu=generic+v8_2a+dotprod",)),
        *("aarch64-linux-gnu.2.17", "aarch64-linux-musl"),
        *(("-march=armv8.2-a+dotprod",), ("asimddp",)),
    ),
    Target(
        *("aarch64-i8mm", "linux", "aarch64", 4, 32, ("-mcpu=generic+v8_2a+dotprod+i8mm",)),
        *("aarch64-linux-gnu.2.17", "aarch64-linux-musl"),
        *(("-march=armv8.2-a+dotprod+i8mm",), ("asimddp", "i8mm")),
    ),
    Target(
        *("armv7-linux", "linux", "armv7", 4, 16, ("-mcpu=generic+v7a+neon+vfp4",)),
        *("arm-linux-gnueabihf.2.17", "arm-linux-musleabihf"),
        *(("-march=armv7-a", "-mfpu=neon-vfpv4"), ("neon", "vfpv4")),
    ),
    Target(
        *("riscv64-linux", "linux", "riscv64", 4, 8),
        *((), "riscv64-linux-gnu.2.27", "riscv64-linux-musl"),
    ),
    Target(
        *("wasm32-wasi", "wasi", "wasm32", 4, 16, ("-msimd128",)),
        *("wasm32-wasi", "wasm32-wasi", ("-msimd128",)),
    ),
    Target(
        *("x86_64-windows", "windows", "x86_64", 8, 16, ("-march=x86_64_v3",)),
        *("x86_64-windows-gnu", "x86_64-windows-gnu", ("-march=x86-64-v3",), _V3),
    ),
    Target(
        *("aarch64-macos", "macos", "aarch64", 4, 32, ("-mcpu=apple_m1",)),
        *("aarch64-macos", "aarch64-macos", ("-mcpu=apple-m1",)),
    ),
    Target(
        *("x86_64-macos", "macos", "x86_64", 8, 16, ("-march=x86_64_v3",)),
        *("x86_64-macos", "x86_64-macos", ("-march=x86-64-v3",), _V3),
    ),
)

CROSS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _CROSS})
"""Name → target, of those that the package `ziglang` compiles for."""


def find(name: str) -> Target:
    """Return the cross target of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in CROSS:
        raise UsageError(f"there is no target {name!r}; choose native, {', '.join(CROSS)}")
    return CROSS[name]


def this_system() -> str:
    """Return what `Target.system` says of a target that runs here."""
    name = platform.system().lower()
    return {"darwin": "macos"}.get(name, name)


def this_architecture() -> str:
    """Return what `Target.architecture` says of a target that runs here."""
    name = platform.machine().lower()
    if name.startswith("armv7") or name == "armv8l":
        return "armv7"
    return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(name, name)
