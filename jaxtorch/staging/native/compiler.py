"""The system's C compiler: source in, functions out, kept on disk."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from jaxtorch.errors import explain

FLAGS = (
    "-O2",
    "-ftree-vectorize",
    "-funswitch-loops",
    "-march=native",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-shared",
    "-fPIC",
    "-w",
)
"""No flag lets the compiler assume that numbers are finite, or reorder sums at will."""
SECONDS = 60
"""After so long the compiler is given up."""
PRELUDE = """\
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__clang__)
#if __GLIBC_PREREQ(2, 22)
#define SIMD __attribute__((simd("notinbranch"), const))
SIMD extern float sinf(float), cosf(float), expf(float), logf(float);
SIMD extern double sin(double), cos(double), exp(double), log(double);
#if __GLIBC_PREREQ(2, 35)
SIMD extern float tanhf(float), expm1f(float), log1pf(float), erff(float);
SIMD extern double tanh(double), expm1(double), log1p(double), erf(double);
#endif
#endif
#endif
"""
"""glibc's vector functions are right to 4 ulp, for numbers of all kinds."""


class CompilerError(RuntimeError):
    """The C compiler refused the source."""


def load(source: str) -> Any:
    """Compile a source, unless it lies on disk, and return the library.

    Raises:
        CompilerError: there is no compiler, or it failed.
    """
    text = PRELUDE + source
    key = hashlib.sha256("\n".join([text, *FLAGS, machine()]).encode()).hexdigest()
    path = folder() / f"{key[:32]}.so"
    if not path.exists():
        build(text, path)
    return ctypes.CDLL(str(path))


def build(text: str, path: Path) -> None:
    """Compile a source; the library appears at its path when it is whole."""
    compiler = find_compiler()
    if compiler is None:
        raise CompilerError(refused("there is no C compiler"))
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        source, made = Path(scratch, "loops.c"), Path(scratch, "loops.so")
        source.write_text(text, encoding="utf-8")
        command = [compiler, *FLAGS, str(source), "-o", str(made), *libraries()]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(refused(f"{compiler}: {error}")) from error
        if done.returncode:
            raise CompilerError(refused(f"{' '.join(command)}: {done.stderr}"))
        os.replace(made, path)


def refused(what: str) -> str:
    """Return the text of an error."""
    mend = "install a C compiler, set $CC to its path, or use backend='python'"
    return explain("jit(backend='native')", what, mend)


def libraries() -> list[str]:
    """Return what to link: glibc has the vector functions in a library of their own."""
    vectors = platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64"
    return ["-lmvec", "-lm"] if vectors else ["-lm"]


@functools.cache
def find_compiler() -> str | None:
    """Return the path of the C compiler: ``$CC``, or what the system has."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    return None


@functools.cache
def machine() -> str:
    """Return what a library depends on beside its source: the CPU and the compiler."""
    cpu = [platform.machine(), platform.processor()]
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        cpu += sorted({x for x in lines if x.startswith(("model name", "flags"))})
    return "\n".join([*cpu, *platform.libc_ver(), str(find_compiler())])


@functools.cache
def folder() -> Path:
    """Return the folder of the libraries: ``$JAXTORCH_CACHE_DIR``, or the user's cache.

    Where it can't be written, one that ends with the process.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("JAXTORCH_CACHE_DIR") or Path(base, "jaxtorch"))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path):
            return path
    except OSError:
        made = tempfile.TemporaryDirectory(prefix="jaxtorch")
        KEPT.append(made)
        return Path(made.name)


KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that are removed when the process ends."""
