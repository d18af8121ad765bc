"""Sandboxes: configs in and out; lists, statuses and events out. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from typing import Any, Final

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.cri.convert import check
from orlop.cri.convert.containers import container_status_out
from orlop.cri.convert.info import info_out, message_info
from orlop.cri.convert.resources import resources_in, resources_out
from orlop.cri.convert.security import enum_out, namespaces_out, sandbox_security_in, sandbox_security_out
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb

HOSTNAME_BYTES: Final = 64
"""HOST_NAME_MAX of Linux."""
PROTOCOLS: Final = ("tcp", "udp", "sctp")


def sandbox_config_in(config: pb.PodSandboxConfig, field: str = "config") -> pod.SandboxConfig:
    """Return the domain form of a sandbox's config. Raises InvalidArgument naming the field."""
    check.refuse(not config.HasField("metadata"), f"{field}.metadata", "is missing")
    check.refuse(config.HasField("windows"), f"{field}.windows", "is not possible on Linux")
    linux = config.linux
    sysctls = dict(linux.sysctls)
    for key, value in sysctls.items():
        check.name(key, f"{field}.linux.sysctls")
        check.text(value, f"{field}.linux.sysctls[{key}]")
    return pod.SandboxConfig(
        metadata=_sandbox_metadata_in(config.metadata, f"{field}.metadata"),
        hostname=check.text(config.hostname, f"{field}.hostname", maximum=HOSTNAME_BYTES),
        log_directory=check.path(config.log_directory, f"{field}.log_directory"),
        dns=_dns_in(config.dns_config, f"{field}.dns_config") if config.HasField("dns_config") else None,
        port_mappings=tuple(
            _port_in(each, f"{field}.port_mappings[{index}]") for index, each in enumerate(config.port_mappings)
        ),
        labels=check.labels(config.labels, f"{field}.labels", limits.LABEL_BYTES),
        annotations=check.labels(config.annotations, f"{field}.annotations", limits.ANNOTATION_BYTES),
        cgroup_parent=check.path(linux.cgroup_parent, f"{field}.linux.cgroup_parent"),
        sysctls=sysctls,
        security=sandbox_security_in(linux.security_context, f"{field}.linux.security_context"),
        overhead=resources_in(linux.overhead, f"{field}.linux.overhead") if linux.HasField("overhead") else None,
        resources=resources_in(linux.resources, f"{field}.linux.resources") if linux.HasField("resources") else None,
    )


def _sandbox_metadata_in(metadata: pb.PodSandboxMetadata, field: str) -> pod.SandboxMetadata:
    return pod.SandboxMetadata(
        name=check.name(metadata.name, f"{field}.name"),
        uid=check.text(metadata.uid, f"{field}.uid", maximum=limits.NAME_BYTES),
        namespace=check.text(metadata.namespace, f"{field}.namespace", maximum=limits.NAME_BYTES),
        attempt=metadata.attempt,
    )


def _dns_in(dns: pb.DNSConfig, field: str) -> pod.DnsConfig:
    # These become lines of /etc/resolv.conf: a line break or a space would be another directive or another server.
    return pod.DnsConfig(
        servers=check.texts(dns.servers, f"{field}.servers", check.word),
        searches=check.texts(dns.searches, f"{field}.searches", check.word),
        options=check.texts(dns.options, f"{field}.options", check.word),
    )


def _port_in(mapping: pb.PortMapping, field: str) -> pod.PortMapping:
    check.within(mapping.protocol, f"{field}.protocol", 0, len(PROTOCOLS) - 1)
    if mapping.host_ip:
        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError:
            raise InvalidArgument(f"{field}.host_ip: {mapping.host_ip!r} is not an IP address") from None
    return pod.PortMapping(
        protocol=PROTOCOLS[mapping.protocol],
        container_port=check.within(mapping.container_port, f"{field}.container_port", 0, 65535),
        host_port=check.within(mapping.host_port, f"{field}.host_port", 0, 65535),
        host_ip=mapping.host_ip,
    )


def sandbox_metadata_out(metadata: pod.SandboxMetadata) -> pb.PodSandboxMetadata:
    return pb.PodSandboxMetadata(
        name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
    )


def sandbox_config_out(config: pod.SandboxConfig) -> pb.PodSandboxConfig:
    """Return a sandbox's config as it was asked for, resources as they were updated."""
    dns = config.dns
    return pb.PodSandboxConfig(
        metadata=sandbox_metadata_out(config.metadata),
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns_config=None
        if dns is None
        else pb.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options),
        port_mappings=[
            pb.PortMapping(
                protocol=_protocol_out(each.protocol),
                container_port=each.container_port,
                host_port=each.host_port,
                host_ip=each.host_ip,
            )
            for each in config.port_mappings
        ],
        labels=config.labels,
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=sandbox_security_out(config.security),
            sysctls=config.sysctls,
            overhead=None if config.overhead is None else resources_out(config.overhead),
            resources=None if config.resources is None else resources_out(config.resources),
        ),
    )


def _protocol_out(protocol: str) -> Any:
    return PROTOCOLS.index(protocol)


def sandbox_out(sandbox: pod.Sandbox) -> pb.PodSandbox:
    """Return a sandbox as ListPodSandbox shows it."""
    config = sandbox.config
    return pb.PodSandbox(
        id=sandbox.id,
        metadata=sandbox_metadata_out(config.metadata),
        state=enum_out(sandbox.state),
        created_at=sandbox.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def sandbox_status_out(sandbox: pod.Sandbox) -> pb.PodSandboxStatus:
    """Return a sandbox as PodSandboxStatus shows it."""
    config = sandbox.config
    status = pb.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox_metadata_out(config.metadata),
        state=enum_out(sandbox.state),
        created_at=sandbox.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.runtime_handler,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=namespaces_out(config.security.namespaces))),
        network=pb.PodSandboxNetworkStatus(),
    )
    if sandbox.ips:
        status.network.ip = sandbox.ips[0]
        for address in sandbox.ips[1:]:
            status.network.additional_ips.add(ip=address)
    return status


def sandbox_status_response(
    sandbox: pod.Sandbox, containers: Iterable[pod.Container], verbose: bool
) -> pb.PodSandboxStatusResponse:
    """Return the whole answer. kubelet's event-driven PLEG takes ``timestamp`` and ``containers_statuses`` together or not at all."""
    return pb.PodSandboxStatusResponse(
        status=sandbox_status_out(sandbox),
        containers_statuses=[container_status_out(each) for each in containers],
        timestamp=time.time_ns(),
        info=info_out({**sandbox.info, "config": message_info(sandbox_config_out(sandbox.config))})
        if verbose
        else None,
    )


def event_out(event: pod.Event) -> pb.ContainerEventResponse:
    """Return an event with the statuses of that moment."""
    made = pb.ContainerEventResponse(
        container_id=event.container_id,
        container_event_type=enum_out(event.type),
        created_at=event.created_at,
        containers_statuses=[container_status_out(each) for each in event.containers],
    )
    if event.sandbox is not None:
        made.pod_sandbox_status.CopyFrom(sandbox_status_out(event.sandbox))
    return made
