import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.pidfd import is_alive, open_verified, pidfd_open, pidfd_send_signal, start_time
from orlop.kernel.procfs import boot_id, parse_stat, process_stat

TAIL = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 0 0"


@given(st.text(alphabet="ab )(\n", max_size=15))
def test_a_command_may_be_named_anything(command: str) -> None:
    stat = parse_stat(f"42 ({command}) {TAIL}")
    assert (stat.pid, stat.command, stat.state, stat.parent, stat.start_time) == (42, command, "S", 7, 12345)


def test_what_is_no_stat_line() -> None:
    for text in ("", "1 (x", "1 (x) S 1"):
        with pytest.raises(ValueError):
            parse_stat(text)


def test_own_process() -> None:
    pid = os.getpid()
    started = start_time(pid)
    assert process_stat(pid).pid == pid
    assert is_alive(pid, started)
    assert not is_alive(pid, started + 1)
    os.close(open_verified(pid, started))
    with pytest.raises(ProcessLookupError):
        open_verified(pid, started + 1)
    fd = pidfd_open(pid)
    pidfd_send_signal(fd, 0)
    os.close(fd)


def test_a_zombie_is_not_alive() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    started = start_time(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child, started)
    os.waitpid(child, 0)
    assert not is_alive(child, started)
    with pytest.raises(ProcessLookupError):
        process_stat(child)


def test_boot_id() -> None:
    assert len(boot_id()) == 36
