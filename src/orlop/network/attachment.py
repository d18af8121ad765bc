"""What a network is asked and what it answers: AttachRequest, Attachment, and the Protocol that both networks fulfil.

    request = request_from_config(sandbox_id, config, netns_fd=..., netlink=..., netns_path=...)
    attachment = await network.attach(request)       # stored as JSON in the pod's row
    await network.detach(sandbox_id, attachment)     # or None, when the daemon died before it was stored

A failed attach leaves nothing behind that a detach with None does not remove; detach may be repeated.
Owns the types, does no I/O. Test: tests/unit/network/test_attachment.py.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.base.ids import SandboxId
from orlop.specs.pod import DnsConfig, PortMapping, SandboxConfig

__all__ = [
    "AttachRequest",
    "Attachment",
    "DnsConfig",
    "Network",
    "NetworkStatus",
    "PortMapping",
    "Route",
    "checked_port_mappings",
    "decode_attachment",
    "request_from_config",
]

INTERFACE = "eth0"
"""The pod's interface. kubelet, metrics and people expect this name."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    destination: str
    gateway: str = ""


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a pod is attached to a network; JSON-serialisable by msgspec."""

    sandbox_id: SandboxId
    network: str
    """Name of the network: the built-in bridge's, or the CNI configuration's."""
    kind: Literal["bridge", "cni"]
    netns: str = ""
    """Path of the network namespace as it was then; the pod may be gone."""
    interface: str = INTERFACE
    host_interface: str = ""
    mac: str = ""
    ips: tuple[str, ...] = ()
    """Without prefix length; the first is the primary address."""
    addresses: tuple[str, ...] = ()
    """The same with prefix length."""
    gateways: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DnsConfig = DnsConfig()
    """What the network, not the pod's config, says about DNS."""
    port_mappings: tuple[PortMapping, ...] = ()
    cni_result: dict[str, object] | None = None
    """The last plugin's result, unaltered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """What a network may want to know of a pod. The fds belong to the caller and are used during the call only."""

    sandbox_id: SandboxId
    netns_fd: int = -1
    netlink: socket.socket | None = None
    """A NETLINK_ROUTE socket opened inside the pod's network namespace."""
    netns_path: str = ""
    """A path that another process can open, such as /proc/<pid>/ns/net."""
    port_mappings: tuple[PortMapping, ...] = ()
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    dns: DnsConfig | None = None
    cgroup_parent: str = ""


class NetworkStatus(NamedTuple):
    """The NetworkReady condition."""

    ready: bool
    reason: str = ""
    message: str = ""


class Network(Protocol):
    """The life of a pod's network."""

    async def attach(self, request: AttachRequest) -> Attachment:
        """Give the pod its interface, addresses, routes and host ports; on failure nothing remains."""

    async def detach(self, request: AttachRequest, attachment: Attachment | None) -> None:
        """Take back whatever attach made, also half of it; a second call finds nothing to do."""

    async def check(self, request: AttachRequest, attachment: Attachment) -> None:
        """Raise FailedPrecondition that names what is not as attach left it."""

    async def reconcile(self, live: AbstractSet[str]) -> None:
        """Take back what belongs to sandboxes that are not in ``live``."""

    async def sweep(self, known: AbstractSet[str]) -> None:
        """Try again to take back what an earlier detach of a sandbox that is not ``known`` (in whatever state) could not."""

    async def status(self) -> NetworkStatus:
        """Say whether attach can be expected to work."""

    def pod_sysctls(self) -> Mapping[str, str]:
        """Return what a pod's network namespace must be told before its interface is there; the pod's own sysctls win."""

    def set_pod_ranges(self, ranges: Sequence[str]) -> None:
        """Take in which ranges the cluster has given this node (kubelet's pod_cidr); raises InvalidArgument for what is no range."""

    async def close(self) -> None:
        """Finish what is under way; pods keep their network."""


def checked_port_mappings(subject: str, mappings: Iterable[PortMapping]) -> tuple[PortMapping, ...]:
    """Return the mappings that ask for a host port, checked and without repetitions; raises InvalidArgument.

    A host port of 0 asks for none: such a mapping only documents the container's port.
    """
    found: dict[PortMapping, None] = {}
    for place, mapping in enumerate(mappings):
        where = f"{subject}: port_mappings[{place}]"
        if mapping.protocol not in ("tcp", "udp", "sctp"):
            raise InvalidArgument(f"{where}.protocol: {mapping.protocol!r} is not tcp, udp or sctp")
        if not 0 <= mapping.host_port <= 65535:
            raise InvalidArgument(f"{where}.host_port: {mapping.host_port} is not a port")
        if mapping.host_port == 0:
            continue
        if not 1 <= mapping.container_port <= 65535:
            raise InvalidArgument(f"{where}.container_port: {mapping.container_port} is not a port")
        if mapping.host_ip:
            host_ip = parse_address(f"{where}.host_ip", mapping.host_ip)
            mapping = msgspec.structs.replace(mapping, host_ip=str(host_ip))
        found[mapping] = None
    return tuple(found)


def parse_address(where: str, value: str) -> IpAddress:
    """Parse an IP address without a zone; raises InvalidArgument that begins with ``where``."""
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        raise InvalidArgument(f"{where}: {value!r} is not an IP address") from None
    if isinstance(parsed, ipaddress.IPv6Address) and (parsed.scope_id is not None or parsed.ipv4_mapped is not None):
        raise InvalidArgument(f"{where}: {value!r} has a zone or is a mapped IPv4 address")
    return parsed


def request_from_config(
    sandbox_id: SandboxId,
    config: SandboxConfig,
    *,
    netns_fd: int = -1,
    netlink: socket.socket | None = None,
    netns_path: str = "",
) -> AttachRequest:
    """Make a request from a pod's config."""
    return AttachRequest(
        sandbox_id=sandbox_id,
        netns_fd=netns_fd,
        netlink=netlink,
        netns_path=netns_path,
        port_mappings=checked_port_mappings(f"sandbox {sandbox_id}", config.port_mappings),
        pod_name=config.metadata.name,
        pod_namespace=config.metadata.namespace,
        pod_uid=config.metadata.uid,
        annotations=config.annotations,
        dns=config.dns,
        cgroup_parent=config.cgroup_parent,
    )


def decode_attachment(stored: bytes | msgspec.Raw) -> Attachment | None:
    """Read an attachment back from the pod's row; ``null`` is None."""
    return msgspec.json.decode(stored, type=Attachment | None)
