"""Status: is the runtime ready, is the network ready, what can each handler do. Facts only; test: tests/cri/test_status.py."""

from __future__ import annotations

from dataclasses import dataclass

from orlop import __version__
from orlop.network.attachment import NetworkStatus
from orlop.services.handlers.protocol import host_for
from orlop.services.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """``RuntimeReady`` or ``NetworkReady``; kubelet shows reason and message when ``status`` is false."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerFeatures:
    name: str
    recursive_read_only_mounts: bool
    user_namespaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What all handlers can do."""

    supplemental_groups_policy: bool
    user_namespaces_host_network: bool
    mount_options: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatus:
    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerFeatures, ...]
    features: Features
    info: dict[str, object]
    """Verbose facts by name; ``config`` carries stateDir, which critest reads."""


async def runtime_status(node: Node, *, verbose: bool = False) -> RuntimeStatus:
    """Return the node's conditions and abilities, with ``info`` when verbose. RuntimeReady is always true: RPCs are let in only after recovery."""
    network = await node.network.status()
    return RuntimeStatus(
        conditions=(
            Condition(type="RuntimeReady", status=True),
            Condition(
                type="NetworkReady",
                status=network.ready,
                reason=network.reason,
                message=network.message,
            ),
        ),
        handlers=tuple(
            HandlerFeatures(
                name=name,
                recursive_read_only_mounts=host_for(node.handlers.get(name), node.host).recursive_readonly,
                user_namespaces=False,
            )
            for name in node.handlers.names()
            if not node.handlers.get(name).unavailable
        ),
        features=_features(node),
        info=_info(node, network) if verbose else {},
    )


def _features(node: Node) -> Features:
    return Features(
        # Groups are worked out here and need nothing of the kernel.
        supplemental_groups_policy=True,
        # Pods in user namespaces are not built.
        user_namespaces_host_network=False,
        mount_options=node.probe.has("mount_options"),
    )


def _info(node: Node, network: NetworkStatus) -> dict[str, object]:
    return {
        "config": {
            "rootDir": str(node.root.root),
            "stateDir": str(node.state.state),
            "cgroupVersion": node.cgroups.version,
            "cgroupDriver": "cgroupfs",
            "version": __version__,
        },
        "features": {each.name: {"available": each.available, "reason": each.reason} for each in node.probe.all()},
        "network": {"ready": network.ready, "reason": network.reason, "message": network.message},
        "handlers": {name: node.handlers.get(name).describe() for name in node.handlers.names() if name},
        "pods": node.pods.statistics(),
        "events": node.events.statistics(),
        "tasks": node.supervisor.statistics(),
        "nri": {"plugins": node.nri.names()},
        "cdi": node.cdi.describe(),
    }
