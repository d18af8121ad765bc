#!/usr/bin/env python3
"""A small NRI plugin: what it does, pods ask for by annotation. Run it beside the daemon, or put it into the plugin directory.

    examples/nri_plugin.py                            connects to /var/run/nri/nri.sock
    examples/nri_plugin.py /run/my/nri.sock           or to another runtime's
    cp examples/nri_plugin.py /opt/nri/plugins/10-sample    orlopd starts it itself, at its next start

    env.sample.nri/NAME: VALUE        a variable for each container of the pod
    nofile.sample.nri: "1024"         at most so many open files in each container

It prints what it sees. Needs the orlop package (pip install, or PYTHONPATH=src in a clone) and works with any runtime that has NRI.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from orlop.nri.stub import DEFAULT_SOCKET, Stub
from orlop.specs.nri_gen import nri_pb2 as nri

ENV = "env.sample.nri/"
NOFILE = "nofile.sample.nri"


class Sample:
    """Methods have the names of NRI's calls; a call without a method is not subscribed to."""

    def Configure(self, request: nri.ConfigureRequest) -> None:
        print(f"runtime {request.runtime_name} {request.runtime_version}, NRI {request.NRI_version}", flush=True)

    def Synchronize(self, request: nri.SynchronizeRequest) -> None:
        print(f"{len(request.pods)} pods and {len(request.containers)} containers are there", flush=True)

    def CreateContainer(self, request: nri.CreateContainerRequest) -> nri.CreateContainerResponse:
        """What is returned is carried out; an exception fails the creation, with its words in the pod's events."""
        adjust = nri.ContainerAdjustment()
        for key, value in sorted(request.pod.annotations.items()):
            if key.startswith(ENV):
                adjust.env.add(key=key.removeprefix(ENV), value=value)
            elif key == NOFILE:
                adjust.rlimits.add(type="RLIMIT_NOFILE", soft=int(value), hard=int(value))
        print(f"{request.pod.namespace}/{request.pod.name}: {request.container.name} is created", flush=True)
        return nri.CreateContainerResponse(adjust=adjust)

    def StopContainer(self, request: nri.StopContainerRequest) -> None:
        print(f"{request.container.name} ended with {request.container.exit_code}", flush=True)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SOCKET
    asyncio.run(Stub(Sample(), index="10", base="sample", path=path).run())
