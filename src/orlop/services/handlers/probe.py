"""What the configured handlers' programs can do, asked of the programs themselves once, when the daemon starts.

    --version       is it such a program at all, and which runtime-spec does it read
    features        where it has the command (runc 1.1; Debian's crun 1.8 has not): recursive read-only and id-mapped mounts
    exec --help     whether a command can get a cgroup of its own

A program that is missing, hangs or answers nonsense makes its handler unavailable, with the reason; it does not stop the node.
Test: tests/kernel/services/test_handlers.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.kernel.mountinfo import mount_point_of
from orlop.oci.foreign import ENVIRONMENT, Limits, Program
from orlop.oci.kernelnames import RLIMIT_NUMBERS
from orlop.services.handlers.builtin import BuiltIn
from orlop.services.handlers.program import ProgramHandler
from orlop.services.handlers.protocol import Handler, Handlers
from orlop.specs.ociruntime import parse_features, parse_version

log = logging.getLogger(__name__)


def program_problem(path: str) -> str:
    """Return why a file cannot be run, "" when it can."""
    if not os.path.exists(path):
        return f"{path}: does not exist"
    if os.path.isdir(path):
        return f"{path}: is a directory"
    return "" if os.access(path, os.X_OK) else f"{path}: is not executable"


async def probe_handlers(
    configured: Mapping[str, Path | None],
    *,
    default: str,
    state: Path,
    hidden: tuple[str, ...],
    clamp_limits: bool,
) -> Handlers:
    """Return the handlers of the node. ``configured``: name -> program, None for another name of the built-in one."""
    own = BuiltIn()
    own_limits = _own_limits() if clamp_limits else None
    state_mount = mount_point_of(str(state))

    async def make(name: str, path: Path) -> Handler:
        program, reason = await probe_program(str(path))
        if reason:
            log.error("handler %s: cannot be used: %s", name, reason)
        else:
            log.info("handler %s: %s %s", name, path, program.release)
        return ProgramHandler(
            name, program, unavailable=reason, hidden=hidden, state_mount=state_mount, own_limits=own_limits
        )

    programs = {name: path for name, path in configured.items() if path is not None}
    made = await asyncio.gather(*(make(name, path) for name, path in programs.items()))
    others: dict[str, Handler] = {name: own for name, path in configured.items() if path is None}
    return Handlers(own, {**others, **dict(zip(programs, made, strict=True))}, default=default)


async def probe_program(path: str) -> tuple[Program, str]:
    """Return the program with what it can, and why it cannot be used, "" when it can."""
    program = Program(path=path)
    if reason := program_problem(path):
        return program, reason
    try:
        code, output = await _ask(path, "--version")
        if code:
            return program, f"{path}: --version: exit code {code}"
        version = parse_version(output, path)
        _, usage = await _ask(path, "exec", "--help")
        code, output = await _ask(path, "features")
        if code == 0:
            found = parse_features(output, path)
            program = msgspec.structs.replace(
                program,
                spec_max=found.spec_max,
                recursive_read_only=found.recursive_read_only,
                idmapped_mounts=found.idmapped_mounts,
            )
    except (InvalidArgument, TimeoutError, OSError) as error:
        return program, f"{path}: {error or 'does not answer'}"
    return (
        msgspec.structs.replace(
            program,
            release=f"{version.program} {version.release}",
            spec_max=program.spec_max or version.spec,
            exec_cgroup=b"--cgroup" in usage,
        ),
        "",
    )


async def _ask(*command: str) -> tuple[int, bytes]:
    """Run a program to its end; return exit code and standard output, as far as there is a limit for it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(entry.split("=", 1) for entry in ENVIRONMENT),
        start_new_session=True,
    )
    output = bytearray()
    try:
        async with asyncio.timeout(limits.OCI_PROBE_SECONDS):
            while process.stdout is not None and (chunk := await process.stdout.read(limits.KIB * 64)):
                output += chunk
                if len(output) > limits.OCI_PROGRAM_OUTPUT_BYTES:
                    break
    finally:
        if len(output) > limits.OCI_PROGRAM_OUTPUT_BYTES or process.stdout is None or not process.stdout.at_eof():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = await process.wait()
    return code, bytes(output)


def _own_limits() -> Limits:
    hard = {name: resource.prlimit(0, number)[1] for name, number in RLIMIT_NUMBERS.items()}
    return Limits(
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text()),
        hard={name: limit for name, limit in hard.items() if limit != resource.RLIM_INFINITY},
    )
