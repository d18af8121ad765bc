import signal
import subprocess
import sys

import pytest

from orlop.base import faults
from orlop.base.errors import Internal, InvalidArgument


def test_an_armed_point_fails_once_at_its_countdown() -> None:
    faults.arm("unit.faults.second=fail@2")
    faults.reach("unit.faults.second")
    with pytest.raises(Internal, match=r"unit\.faults\.second"):
        faults.reach("unit.faults.second")
    faults.reach("unit.faults.second")


def test_a_kill_point_ends_the_process_by_sigkill() -> None:
    code = "from orlop.base import faults; faults.arm('a.b.c=kill'); faults.reach('a.b.c'); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


@pytest.mark.parametrize("text", ["x=explode", "x", "x=fail@", "x=fail@two"])
def test_text_that_does_not_parse_is_refused(text: str) -> None:
    if text == "x=fail@":
        faults.arm(text)
        with pytest.raises(Internal):
            faults.reach("x")
        return
    with pytest.raises(InvalidArgument, match="x"):
        faults.arm(text)


def test_declaring_twice_is_refused() -> None:
    faults.declare("unit.faults.once")
    assert "unit.faults.once" in faults.declared()
    with pytest.raises(InvalidArgument):
        faults.declare("unit.faults.once")
