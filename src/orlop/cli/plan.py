"""orlop plan: what is done to the kernel to start a container, one line an operation. Test: tests/unit/cli/test_plan.py.

Of a container that the daemon knows, or of an OCI bundle before anything is run. The plan is compiled here from the runtime spec; file
descriptors stand in it by name. Compiling is pure: nothing on this host is changed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from orlop.base.errors import InvalidArgument, NotFound


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", nargs="?", default="", metavar="CONTAINER")
    parser.add_argument(
        "-b", "--bundle", default="", metavar="DIR", help="plan an OCI bundle (a directory with config.json) instead"
    )
    parser.add_argument("--show-values", action="store_true", help="show the values of environment variables")


def run(options: argparse.Namespace) -> int:
    if bool(options.container) == bool(options.bundle):
        raise InvalidArgument("give either a CONTAINER or --bundle DIR")
    data = bundle_spec(Path(options.bundle)) if options.bundle else container_spec(options.address, options.container)
    print(plan_of(data, container_id=options.container, show_values=options.show_values), end="")
    return 0


def plan_of(data: bytes, *, container_id: str = "", show_values: bool = False) -> str:
    """Return the plan of a runtime spec as text. Raises InvalidArgument when the spec is wrong."""
    from orlop.oci.compile import Facts, compile_container
    from orlop.oci.plan_text import plan_text
    from orlop.specs.runtime import parse

    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    facts = Facts(container_id=container_id, cgroup_v2=unified)
    return plan_text(compile_container(parse(data), facts), show_values=show_values)


def bundle_spec(bundle: Path) -> bytes:
    try:
        return (bundle / "config.json").read_bytes()
    except OSError as error:
        raise NotFound(f"bundle {bundle}: config.json cannot be read: {error.strerror}") from error


def container_spec(address: str, name: str) -> bytes:
    from orlop.cli.client import Client
    from orlop.cli.find import find_container
    from orlop.specs.cri_gen import api_pb2 as pb

    with Client(address) as client:
        identity = find_container(client, name).id
        answer = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=identity, verbose=True))
    spec = json.loads(answer.info.get("info", "{}")).get("runtimeSpec")
    if not spec:
        raise NotFound(f"container {name}: the daemon has no runtime spec of it")
    return json.dumps(spec).encode()
