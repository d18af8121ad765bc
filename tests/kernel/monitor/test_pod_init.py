"""The init of a shared PID namespace ends with its monitor, however that ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from orlop.monitor.spawn import spawn_monitor
from orlop.oci.codec import encode
from orlop.oci.compile import compile_pod
from tests.kernel.monitor.harness import binary


async def test_it_does_not_outlive_a_killed_monitor(tmp_path: Path) -> None:
    client = await spawn_monitor("orlop-test", tmp_path, binary())
    plan = compile_pod(network=False, ipc=False, uts=False, shared_pid=True, hostname="", sysctls={})
    init = (await client.pod(encode(plan))).init_pid
    assert init > 0
    pidfd = os.pidfd_open(init)
    os.kill(client.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            break
        state = Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < deadline, "the pod's init lives on without its monitor"
        time.sleep(0.01)
    os.close(pidfd)
    client.close()
