"""The daemon is killed at every fault point it declares, started again, and must leave nothing half-made and serve as before.

A point that the flow does not pass fails its test: a fault point nobody reaches proves nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

import grpc
import pytest

from orlop.base.errors import OrlopError
from orlop.cli.client import Client
from tests.cri.client import remove_all_pods
from tests.cri.daemons import TOP, Orlopd
from tests.cri.flow import left_over, pod_config, state_files, whole_life
from tests.images.registry import free_port

pytestmark = [pytest.mark.cri, pytest.mark.timeout(90)]


def fault_points() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "orlop.daemon", "--list-fault-points"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(TOP / "src"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    return done.stdout.split()


@pytest.mark.parametrize("point", fault_points())
def test_nothing_half_made_remains(point, registry):
    # The points of the CNI calls are passed only where plugins make the network.
    daemon = Orlopd(registry.certs_d, name="fault", cni=point.startswith("network.cni."))
    # Those of a handler's program only where one is asked for.
    handler = "crun" if point.startswith("handler.") else ""
    if handler:
        daemon.more_config = f'\n[runtime.handlers.{handler}]\ntype = "oci"\npath = "/usr/bin/{handler}"\n'
    with daemon:
        scope = daemon.scope()
        before, files_before = scope.take(), state_files(daemon)
        daemon.terminate()

        daemon.environment["ORLOP_FAULTS"] = f"{point}=kill"
        daemon.start()
        config = pod_config(daemon, "faulty", free_port())
        with contextlib.suppress(grpc.RpcError, OrlopError), Client(daemon.address) as client:
            whole_life(client, config, handler)
        assert daemon.process is not None
        try:
            daemon.process.wait(10)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{point}: the flow does not pass it; the daemon lives")
        daemon.process = None

        del daemon.environment["ORLOP_FAULTS"]
        daemon.start()
        remove_all_pods(daemon.address)
        assert left_over(daemon, scope, before, files_before) == {}, f"left after the kill at {point}"
        with Client(daemon.address) as client:
            whole_life(client, config, handler)
        assert left_over(daemon, scope, before, files_before) == {}, "left by the same pod's second life"
