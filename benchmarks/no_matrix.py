"""This machine as if it had no matrix instructions (AMX), for every engine alike.

A process asks Linux for tile registers before it uses them. ONNX Runtime, OpenVINO and secateur's
engines all do, and take AVX-512 VNNI where it refuses. So a filter of system calls that refuses
makes all of them run as on a processor with AVX-512 VNNI and no AMX; an engine that used tiles
nevertheless would be killed. The processor stays what it is: its AVX-512 units, clock and caches
are not those of an older one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import struct

from secateur.compiler import toolchain
from secateur.errors import UsageError

_FLAGS = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ARCH_PRCTL, _ASK = 158, 0x1023
_TILES = 18

# Classic BPF (seccomp(2)): arch_prctl(_ASK, ...) fails with EPERM; all else is allowed.
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_PROGRAM = (
    (_LOAD, 0, 0, 0),
    (_EQUAL, 0, 3, _ARCH_PRCTL),
    (_LOAD, 0, 0, 16),
    (_EQUAL, 0, 1, _ASK),
    (_RETURN, 0, 0, 0x00050001),
    (_RETURN, 0, 0, 0x7FFF0000),
)


def refuse() -> None:
    """Refuse tile registers to this process and to those that it starts, for good.

    Secateur compiles without them from here on, too, since its plans depend on them.

    Raises:
        UsageError: the system cannot, or has granted them to this process already.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UsageError("matrix instructions can be refused on Linux on x86-64 only")
    os.environ["CC"] = shlex.join([*toolchain.compiler(toolchain.native()), *_FLAGS])
    libc = ctypes.CDLL(None, use_errno=True)
    codes = b"".join(struct.pack("HBBI", *code) for code in _PROGRAM)
    text = ctypes.create_string_buffer(codes)
    program = struct.pack("HxxxxxxQ", len(_PROGRAM), ctypes.addressof(text))
    failed = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, program)
    if failed or not libc.syscall(_ARCH_PRCTL, _ASK, _TILES):
        raise UsageError("this system refuses no matrix instructions; run it without --no-matrix")
