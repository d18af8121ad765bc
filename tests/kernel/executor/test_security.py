"""Capabilities, no_new_privs, seccomp: what the running process has, as the kernel says."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from orlop.oci import ops
from orlop.oci.ops import Op
from tests.kernel.executor.harness import VARIANT, Box, container

pytestmark = pytest.mark.kernel

CHOWN, NET_BIND, NET_RAW, SYS_ADMIN, SYS_CHROOT = 1 << 0, 1 << 10, 1 << 13, 1 << 21, 1 << 18
LAST = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
SYS_MKDIR, SYS_SOCKET = 83, 41
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000


def seccomp(*denied: int) -> bytes:
    """Deny these x86_64 calls with EPERM + 20 (ENOTDIR: told apart from a capability's EPERM)."""
    code = [(0x20, 0, 0, 0)]
    for index, number in enumerate(denied):
        code.append((0x15, len(denied) - index, 0, number))
    code += [(0x06, 0, 0, RET_ALLOW), (0x06, 0, 0, RET_ERRNO | errno.ENOTDIR)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def status(box: Box, identity: tuple[Op, ...], final: tuple[Op, ...] = ()) -> dict[str, str]:
    outcome = box.run(container("cat", "/proc/self/status", identity=identity, final=final))
    assert not outcome.has("failed"), outcome.events
    return {name: value.strip() for name, _, value in (line.partition(":") for line in outcome.out.splitlines())}


def caps(found: dict[str, str]) -> dict[str, int]:
    return {name[3:]: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def test_sets_of_root(box: Box) -> None:
    """CVE-2022-24769: nothing inheritable."""
    keep = CHOWN | NET_BIND | NET_RAW
    identity = (
        ops.BoundingSet(keep=keep),
        ops.Groups(gids=()),
        ops.User(uid=0, gid=0),
        ops.Capabilities(effective=keep, permitted=keep, inheritable=0, ambient=0),
        ops.NoNewPrivs(),
    )
    found = status(box, identity)
    assert caps(found) == {"Inh": 0, "Prm": keep, "Eff": keep, "Bnd": keep, "Amb": 0}
    assert found["NoNewPrivs"] == "1"


def test_user_without_ambient_loses_all_at_exec(box: Box) -> None:
    keep = CHOWN | NET_BIND
    identity = (
        ops.BoundingSet(keep=keep),
        ops.User(uid=1000, gid=1000),
        ops.Capabilities(effective=keep, permitted=keep, inheritable=0, ambient=0),
    )
    assert caps(status(box, identity)) == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": keep, "Amb": 0}


def test_ambient_survives_exec_of_a_user(box: Box) -> None:
    keep = CHOWN | NET_BIND
    identity = (
        ops.BoundingSet(keep=keep),
        ops.User(uid=1000, gid=1000),
        ops.Capabilities(effective=keep, permitted=keep, inheritable=NET_BIND, ambient=NET_BIND),
    )
    assert caps(status(box, identity)) == {
        "Inh": NET_BIND,
        "Prm": NET_BIND,
        "Eff": NET_BIND,
        "Bnd": keep,
        "Amb": NET_BIND,
    }


def test_ambient_needs_inheritable(box: Box) -> None:
    identity = (ops.Capabilities(effective=NET_RAW, permitted=NET_RAW, inheritable=0, ambient=NET_RAW),)
    assert box.run(container("exit", "0", identity=identity)).failed == (
        "capabilities",
        errno.EPERM,
        "ambient capability 13",
    )


def test_capability_that_the_runtime_does_not_hold(box: Box) -> None:
    dropped = ops.Capabilities(effective=NET_RAW, permitted=NET_RAW, inheritable=0, ambient=0)
    more = ops.Capabilities(effective=CHOWN | NET_RAW, permitted=CHOWN | NET_RAW, inheritable=0, ambient=0)
    op, error, detail = box.run(container("exit", "0", identity=(dropped, more))).failed
    assert (op, error) == ("capabilities", errno.EPERM)
    assert detail.endswith("not held by the runtime: 0x1")


def test_bounding_set_beyond_the_last_capability(box: Box) -> None:
    own = int(Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0], 16)
    assert caps(status(box, (ops.BoundingSet(keep=(1 << 64) - 1),)))["Bnd"] == own
    assert caps(status(box, (ops.BoundingSet(keep=(1 << 64) - 1 - (1 << LAST)),)))["Bnd"] == own & ~(1 << LAST)
    assert caps(status(box, (ops.BoundingSet(keep=0),)))["Bnd"] == 0


def test_seccomp_with_no_new_privs_as_a_user(box: Box) -> None:
    identity = (
        ops.User(uid=1000, gid=1000),
        ops.Capabilities(effective=0, permitted=0, inheritable=0, ambient=0),
        ops.NoNewPrivs(),
    )
    final = (ops.Seccomp(filter=seccomp(SYS_SOCKET), flags=0),)
    outcome = box.run(container("socket", "1", "cat", "/proc/self/status", identity=identity, final=final))
    assert outcome.line("socket:") == "socket: Not a directory"
    assert outcome.line("Seccomp:").split()[1] == "2"
    assert outcome.line("Seccomp_filters:").split()[1] == "1"


def test_seccomp_without_no_new_privs_keeps_admin_until_the_filter_stands(box: Box) -> None:
    user = ops.User(uid=1000, gid=1000)
    kept = ops.Capabilities(effective=CHOWN | SYS_ADMIN, permitted=CHOWN | SYS_ADMIN, inheritable=CHOWN, ambient=0)
    final = (
        ops.Seccomp(filter=seccomp(SYS_SOCKET), flags=0),
        ops.FinalCaps(effective=CHOWN, permitted=CHOWN, inheritable=CHOWN, ambient=CHOWN),
    )
    found = status(box, (user, kept), final)
    assert caps(found)["Eff"] == CHOWN
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "2")
    without = (user, ops.Capabilities(effective=0, permitted=0, inheritable=0, ambient=0))
    failed = box.run(container("exit", "0", identity=without, final=final[:1]))
    assert failed.failed == ("seccomp", errno.EACCES, "filter of 4 instructions, flags 0")


def test_seccomp_filter_that_is_no_program(box: Box) -> None:
    final = (ops.Seccomp(filter=struct.pack("<HBBI", 0xFF, 0, 0, 0), flags=0),)
    op, error, _ = box.run(container("exit", "0", final=final)).failed
    assert (op, error) == ("seccomp", errno.EINVAL)


def only(*allowed: int) -> bytes:
    code = [(0x20, 0, 0, 0)]
    for index, number in enumerate(allowed):
        code.append((0x15, len(allowed) - index, 0, number))
    code += [(0x06, 0, 0, RET_ERRNO | errno.ENOSYS), (0x06, 0, 0, RET_ALLOW)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def test_behind_a_filter_that_allows_almost_nothing(box: Box) -> None:
    """write, execve and the exits: the executor itself needs no more, and the error of exec comes through."""
    runtime = (
        (9, 10, 11, 131) if VARIANT == "asan" else ()
    )  # a sanitizer's own calls on the way out: memory and sigaltstack
    least = (1, 59, 60, 231, *runtime)
    for path, program in (("nothere", only(*least)), ("/bin/payload", only(*least, 16, 20, 158, 218))):
        final = (ops.Seccomp(filter=program, flags=0),)
        plan = container(path=path, argv=("x", "echo", "ran"), identity=(ops.NoNewPrivs(),), final=final)
        outcome = box.run(plan)
        if path == "nothere":
            assert outcome.failed == ("exec", errno.ENOENT, '"nothere": executable file not found in $PATH')
        else:
            assert outcome.out == "ran\n"


def test_labels_of_lsms_that_the_kernel_lacks(box: Box) -> None:
    lsms = Path("/sys/kernel/security/lsm")
    if lsms.exists() and "apparmor" in lsms.read_text():
        pytest.skip("AppArmor is on")
    op, _, detail = box.run(
        container("exit", "0", identity=(ops.LsmLabel(lsm="apparmor", label="orlop-default"),))
    ).failed
    assert (op, detail) == ("lsm_label", "apparmor profile orlop-default")
    assert box.run(container("exit", "0", identity=(ops.LsmLabel(lsm="other", label="x"),))).failed == (
        "lsm_label",
        errno.EINVAL,
        "unknown LSM other",
    )
