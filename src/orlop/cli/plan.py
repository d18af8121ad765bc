"""orlop plan: what is done to the kernel to start a container, one line an operation, in order, without doing it.

Of a container that the daemon knows, or of an OCI bundle before anything is run; the latter needs no daemon and no root. The plan is compiled
here from the runtime spec; file descriptors stand in it by name. Owns the facts about this host that the compiler needs. Never makes, joins or
mounts anything. Test: tests/unit/cli/test_plan.py.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import msgspec

from orlop.base.errors import FailedPrecondition, NotFound
from orlop.base.limits import RUNTIME_SPEC_BYTES
from orlop.oci.compile import (
    INHERITED,
    OF_POD_INIT,
    CgroupBind,
    Facts,
    Whereabouts,
    compile_container,
)
from orlop.oci.ops import Fd, Plan
from orlop.oci.plan_text import plan_json, plan_text
from orlop.specs.runtime import RuntimeSpec, parse

SHM = "/dev/shm"  # noqa: S108 - a mount point inside the container


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("container", nargs="?", default="", metavar="CONTAINER")
    which.add_argument(
        "-b", "--bundle", default="", metavar="DIR", help="plan an OCI bundle (a directory with config.json) instead"
    )
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text")
    parser.add_argument("--show-values", action="store_true", help="show the values of environment variables")
    parser.add_argument("--cgroup", choices=("v1", "v2"), help="plan for this cgroup version (default: this host's)")


def run(options: argparse.Namespace) -> int:
    if options.bundle:
        plan = plan_bundle(Path(options.bundle), options.cgroup)
    else:
        plan = plan_container(*container_spec(options.address, options.container), options.cgroup)
    if options.format == "json":
        print(plan_json(plan, show_values=options.show_values).decode())
    else:
        print(plan_text(plan, show_values=options.show_values), end="")
    return 0


def plan_bundle(bundle: Path, cgroup: str | None = None) -> Plan:
    """Return the plan of a bundle on this host. Raises NotFound, or InvalidArgument when its config.json is wrong."""
    try:
        with open(bundle / "config.json", "rb") as file:
            spec = parse(file.read(RUNTIME_SPEC_BYTES + 1))
    except OSError as error:
        raise NotFound(f"bundle {bundle}: config.json cannot be read: {error.strerror}") from error
    if spec.root is not None and spec.root.path:
        root = os.path.abspath(bundle / spec.root.path)
        spec = msgspec.structs.replace(spec, root=msgspec.structs.replace(spec.root, path=root))
    name = bundle.resolve().name or "container"
    return compile_container(spec, msgspec.structs.replace(_host_facts(spec, name, cgroup), rootfs=None))


def plan_container(container_id: str, data: bytes, cgroup: str | None = None) -> Plan:
    """Return the plan of a container of the daemon from its runtime spec: namespaces that the spec has by path are the pod's."""
    spec = parse(data)
    paths = {item.type: item.path for item in spec.linux.namespaces if item.path} if spec.linux is not None else {}
    where: dict[str, Whereabouts] = {kind: INHERITED for kind in ("network", "uts", "ipc") if kind in paths}
    if "pid" in paths:
        where["pid"] = OF_POD_INIT
    shared = "ipc" in paths and any(mount.destination == SHM and mount.type == "tmpfs" for mount in spec.mounts)
    facts = msgspec.structs.replace(
        _host_facts(spec, container_id, cgroup), namespaces=where, trees={SHM: Fd("pod.shm")} if shared else {}
    )
    return compile_container(spec, facts)


def container_spec(address: str, name: str) -> tuple[str, bytes]:
    """Return the id and the runtime spec of a container of the daemon."""
    from orlop.cli.client import Client
    from orlop.cli.find import find_container
    from orlop.specs.cri_gen import api_pb2 as pb

    with Client(address) as client:
        identity = find_container(client, name).id
        answer = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=identity, verbose=True))
    info = json.loads(answer.info.get("info", "{}"))
    spec, handler = info.get("runtimeSpec"), info.get("handler", "orlop")
    if handler != "orlop":
        raise FailedPrecondition(
            f"container {name}: was made by the program of handler {handler}; orlop has no plan of what that does"
        )
    if not spec:
        raise NotFound(f"container {name}: the daemon has no runtime spec of it")
    return identity, json.dumps(spec).encode()


def _host_facts(spec: RuntimeSpec, name: str, cgroup: str | None) -> Facts:
    facts = Facts(container_id=name, last_capability=int(Path("/proc/sys/kernel/cap_last_cap").read_text()))
    seccomp = spec.linux.seccomp if spec.linux is not None else None
    if seccomp is not None:
        from orlop.security.profiles import compile_profile, profile_of

        compiled = compile_profile(profile_of(seccomp, "linux.seccomp"))
        facts = msgspec.structs.replace(facts, seccomp_filter=compiled.bpf, seccomp_flags=compiled.flags)
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    if cgroup == "v2" or (cgroup is None and unified):
        return msgspec.structs.replace(facts, cgroup_v2=True, cgroup_clone=Fd("cgroup"))
    path = (spec.linux.cgroups_path if spec.linux is not None else "") or f"/{name}"
    hierarchies = _hierarchies()
    return msgspec.structs.replace(
        facts,
        cgroup_v2=False,
        cgroup_tasks=tuple(Fd(f"cgroup.tasks.{hierarchy}") for hierarchy in hierarchies),
        cgroup_binds=tuple(
            CgroupBind(name=hierarchy, source=f"/sys/fs/cgroup/{hierarchy}/{path.lstrip('/')}")
            for hierarchy in hierarchies
        ),
    )


def _hierarchies() -> list[str]:
    """cgroup v1 hierarchies of this host, as their directories are called; cgroups(7), /proc/[pid]/cgroup."""
    names = []
    for line in Path("/proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
        controllers = line.split(":", 2)[1]
        if controllers:
            names.append(controllers.removeprefix("name="))
    return sorted(names)
