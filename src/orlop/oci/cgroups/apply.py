"""Apply a list of writes to cgroup files: with the kernel's answer turned into words, and for updates all or none.

Order among writes that depend on each other (memory and memory+swap, period and quota) needs no rules: one that the kernel refuses
with EINVAL gets a second turn after the others. Test: tests/kernel/cgroups/test_update.py.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from typing import Final

from orlop.base.errors import Internal, InvalidArgument, OrlopError
from orlop.oci.cgroups.resources import Write

log = logging.getLogger(__name__)

ReadFile = Callable[[Write], str]
WriteFile = Callable[[Write], None]

_REFUSED: Final = {
    errno.EINVAL: "the kernel refuses the value",
    errno.ERANGE: "the value is out of range",
    errno.EBUSY: "more is in use already",
    errno.ENOSPC: "the parent cgroup does not have it, or a process has nowhere to go",
    errno.EACCES: "it is not in the parent cgroup",
    errno.ENOENT: "the kernel has no such limit",
    errno.ENODEV: "there is no such device",
    errno.EOVERFLOW: "the value is too large",
}


def refusal(write: Write, error: OSError) -> OrlopError:
    """Return the error that tells whose fault a failed write is."""
    reason = _REFUSED.get(error.errno or 0)
    if reason is None:
        return Internal(f"cannot write {write.value!r} to {error.filename}: {error.strerror}")
    return InvalidArgument(f"{write.file} = {write.value}: {reason} ({error.strerror}, {error.filename})")


def apply(writes: Iterable[Write], write_file: WriteFile) -> None:
    """Write all in order; those refused with EINVAL once more after the others."""
    _apply(writes, write_file, [])


def _apply(writes: Iterable[Write], write_file: WriteFile, done: list[Write]) -> None:
    again: list[Write] = []
    for write in writes:
        try:
            write_file(write)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise refusal(write, error) from error
            again.append(write)
        else:
            done.append(write)
    for write in again:
        try:
            write_file(write)
        except OSError as error:
            raise refusal(write, error) from error
        done.append(write)


def _restore(subject: str, old: Iterable[Write], write_file: WriteFile) -> None:
    """Put old values back; one that cannot be put back does not keep the others from it."""
    pending = list(old)
    for last in (False, True):
        refused: list[Write] = []
        for write in pending:
            try:
                write_file(write)
            except OSError as error:
                refused.append(write)
                if last:
                    log.error("cgroup %s: %s could not be put back to %s: %s", subject, write.file, write.value, error)
        pending = refused


def apply_or_restore(subject: str, writes: Iterable[Write], read_file: ReadFile, write_file: WriteFile) -> list[Write]:
    """Write what differs from what is there; on a failure put the old values back and raise. Returns what was changed.

    Files whose text is not what one writes (``io.max`` and other per-device ones) cannot be put back; they are written last.
    """
    old: dict[str, Write] = {}
    changed: list[Write] = []
    for write in sorted(writes, key=lambda write: " " in write.value and ":" in write.value):
        try:
            before = read_file(write)
        except FileNotFoundError as error:
            raise refusal(write, error) from error
        if before == write.value or (write.value == "-1" and before.isdigit() and int(before) >= 1 << 62):
            continue
        changed.append(write)
        if "\n" not in before and ":" not in before:
            old[write.file] = Write(controller=write.controller, file=write.file, value=before)
    done: list[Write] = []
    try:
        _apply(changed, write_file, done)
    except OrlopError:
        _restore(subject, [old[write.file] for write in reversed(done) if write.file in old], write_file)
        raise
    return changed
