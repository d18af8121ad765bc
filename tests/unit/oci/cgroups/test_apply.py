import errno

import pytest

from orlop.base.errors import Internal, InvalidArgument
from orlop.oci.cgroups.apply import apply, apply_or_restore
from orlop.oci.cgroups.resources import Write


class Memory:
    """The rules of v1's two memory limits: memory must not be above memory plus swap."""

    def __init__(self) -> None:
        self.files = {"memory.limit_in_bytes": 100, "memory.memsw.limit_in_bytes": 100, "cpu.shares": 5}
        self.broken = ""

    def read(self, write: Write) -> str:
        return str(self.files[write.file])

    def write(self, write: Write) -> None:
        if write.file == self.broken:
            raise OSError(errno.EBUSY, "busy", f"/x/{write.file}")
        changed = {**self.files, write.file: int(write.value)}
        if changed["memory.limit_in_bytes"] > changed["memory.memsw.limit_in_bytes"]:
            raise OSError(errno.EINVAL, "invalid", f"/x/{write.file}")
        self.files = changed


def limits(value: int, shares: int = 5) -> list[Write]:
    return [
        Write(controller="memory", file="memory.limit_in_bytes", value=str(value)),
        Write(controller="memory", file="memory.memsw.limit_in_bytes", value=str(value)),
        Write(controller="cpu", file="cpu.shares", value=str(shares)),
    ]


@pytest.mark.parametrize("value", [50, 100, 200])
def test_dependent_limits_go_up_and_down_in_any_order(value: int) -> None:
    for order in (limits(value), limits(value)[::-1]):
        kernel = Memory()
        apply_or_restore("x", order, kernel.read, kernel.write)
        assert kernel.files["memory.limit_in_bytes"] == kernel.files["memory.memsw.limit_in_bytes"] == value


def test_only_differences_are_written() -> None:
    kernel = Memory()
    assert [write.file for write in apply_or_restore("x", limits(100, 7), kernel.read, kernel.write)] == ["cpu.shares"]


@pytest.mark.parametrize("value", [50, 200])
def test_a_failure_puts_everything_back(value: int) -> None:
    kernel = Memory()
    kernel.broken = "cpu.shares"
    with pytest.raises(InvalidArgument, match=r"cpu.shares = 9: more is in use already \(busy, /x/cpu.shares\)"):
        apply_or_restore("x", limits(value, 9), kernel.read, kernel.write)
    assert kernel.files == Memory().files


def test_whose_fault_it_is() -> None:
    def fail(code: int) -> None:
        def write(_write: Write) -> None:
            raise OSError(code, "text", "/x")

        apply([Write(controller="c", file="f", value="v")], write)

    with pytest.raises(InvalidArgument):
        fail(errno.EINVAL)
    with pytest.raises(InvalidArgument):
        fail(errno.ENOENT)
    with pytest.raises(Internal):
        fail(errno.EIO)
