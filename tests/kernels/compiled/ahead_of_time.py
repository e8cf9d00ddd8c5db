"""Compile a kernel to machine code for a card that is not here, and read off what the card would suffer."""

import dataclasses
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHS = (80, 86, 89, 90, 100, 120)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one multiprocessor offers: shared bytes a block, shared bytes in all, resident warps and blocks."""

    block_shared: int
    shared: int
    warps: int
    blocks: int


LIMITS = {
    80: Limits(166_912, 167_936, 64, 32),
    86: Limits(101_376, 102_400, 48, 16),
    89: Limits(101_376, 102_400, 48, 24),
    90: Limits(232_448, 233_472, 64, 32),
    100: Limits(232_448, 233_472, 64, 32),
    120: Limits(101_376, 102_400, 48, 24),
}
REGISTERS = 65_536  # of a multiprocessor, on every arch above


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Resources and instruction counts of one kernel on one arch. Counts are of the code, not of what is executed."""

    arch: int
    num_warps: int
    registers: int  # a thread
    spills: int  # loads from and stores to local memory
    stack: int  # bytes a thread
    shared: int  # bytes a block
    wide_loads: int  # global loads of 128 bits or more
    narrow_loads: int  # all other global loads
    async_loads: int  # 128-bit copies from global to shared memory, or bulk copies
    wide_stores: int  # global stores of 128 bits or more
    mma: int  # tensor-core instructions
    sass: str = dataclasses.field(repr=False, default="")

    @property
    def resident_warps(self) -> int:
        """Warps that fit on a multiprocessor together."""
        limits = LIMITS[self.arch]
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * 32) // self.num_warps
        by_shared = limits.shared // (self.shared + 1024)
        return self.num_warps * min(by_registers, by_shared, limits.warps // self.num_warps, limits.blocks)


def compile_ahead(
    kernel, arch: int, *, types: dict[str, str], constants: dict, num_warps: int = 4, num_stages: int = 3,
    divisible: Iterable[str] | None = None,
) -> Compiled:  # fmt: skip
    """Compile a @triton.jit kernel for sm_<arch> and read its resources and its machine code.

    types: Triton type of each argument that is no constant ("*bf16", "i32", "i64", "fp32"). constants: values of the
    constexprs and of arguments the launcher would fold away (None, or an integer 1). divisible: names that are
    multiples of 16 as the launcher sees them; by default pointers and all whose name holds "stride".
    The result is cached within one process.
    """
    if divisible is None:
        divisible = [name for name, type_ in types.items() if type_.startswith("*") or "stride" in name]
    return _compile(kernel, arch, tuple(types.items()), tuple(constants.items()), num_warps, num_stages,
                    frozenset(divisible))  # fmt: skip


@functools.cache
def _compile(kernel, arch, types, constants, num_warps, num_stages, divisible) -> Compiled:
    types, constants = dict(types), dict(constants)
    unknown = (set(types) | set(constants) | set(divisible)) - set(kernel.arg_names)
    missing = set(kernel.arg_names) - set(types) - set(constants)
    assert not unknown and not missing, f"{kernel.__name__}: unknown {sorted(unknown)}, missing {sorted(missing)}"
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    attrs = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible if name in types}
    source = ASTSource(kernel, signature, constants, attrs)
    target, options = GPUTarget("cuda", arch, 32), {"num_warps": num_warps, "num_stages": num_stages}
    done = triton.compile(source, target=target, options=options)
    return _read(done.asm["cubin"], arch, num_warps, done.metadata.shared)


def _read(cubin: bytes, arch: int, num_warps: int, shared: int) -> Compiled:
    """Disassemble with the cuobjdump that comes with Triton."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "kernel.cubin"
        path.write_bytes(cubin)
        env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
        run = functools.partial(subprocess.run, capture_output=True, text=True, check=True, env=env)
        usage, sass = (run([folder / "cuobjdump", flag, path]).stdout for flag in ("-res-usage", "-sass"))
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    words = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass, re.MULTILINE)

    def count(pattern):
        return sum(re.match(pattern, word) is not None for word in words)

    wide = r"(?=.*\.(128|256)(\.|$))"
    loads = count(r"LDG(\.|$)")
    return Compiled(
        arch=arch, num_warps=num_warps, registers=used["REG"], spills=count(r"(LDL|STL)(\.|$)"),
        stack=used["STACK"] + used.get("LOCAL", 0), shared=shared, wide_loads=count(rf"{wide}LDG(\.|$)"),
        narrow_loads=loads - count(rf"{wide}LDG(\.|$)"),
        async_loads=count(rf"{wide}LDGSTS") + count(r"UTMALDG|UBLKCP"), wide_stores=count(rf"{wide}STG(\.|$)"),
        mma=count(r"[A-Z]*MMA(\.|$)"), sass=sass,
    )  # fmt: skip


def check_limits(compiled: Compiled, *, has_dots: bool, least_warps: int = 8) -> None:
    """Fail on what would make a kernel slow or unlaunchable on its arch; every complaint is listed at once.

    has_dots: whether the kernel multiplies matrices of fp16 or bf16, which must reach the tensor cores; a kernel whose
    dots are float32 has none. least_warps: how many warps must fit on a multiprocessor to hide the memory's latency.
    """
    limits = LIMITS[compiled.arch]
    complaints = {
        f"{compiled.spills} spills, {compiled.stack} bytes of stack": compiled.spills or compiled.stack,
        f"{compiled.registers} registers": compiled.registers > 255,
        f"{compiled.shared} bytes of shared memory, {limits.block_shared} fit": compiled.shared > limits.block_shared,
        f"{compiled.resident_warps} resident warps, {least_warps} wanted": compiled.resident_warps < least_warps,
        "no 128-bit or asynchronous loads": not (compiled.wide_loads or compiled.async_loads),
        "no tensor-core instructions": has_dots and not compiled.mma,
    }
    wrong = [text for text, holds in complaints.items() if holds]
    assert not wrong, f"sm_{compiled.arch}: {'; '.join(wrong)}"
