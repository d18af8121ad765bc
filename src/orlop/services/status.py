"""Status: is the runtime ready, is the network ready, what can each handler do. Facts only; test: tests/cri/test_status.py."""

from __future__ import annotations

from dataclasses import dataclass

from orlop import __version__
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

    supplemental_groups_policy: bool = True
    mount_options: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatus:
    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerFeatures, ...]
    features: Features
    info: dict[str, object]
    """Verbose facts by name; ``config`` carries stateDir, which critest reads."""


async def runtime_status(node: Node) -> RuntimeStatus:
    """Return the node's conditions and abilities. RuntimeReady is always true: RPCs are let in only after recovery."""
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
                recursive_read_only_mounts=node.host.recursive_readonly,
                user_namespaces=False,
            )
            for name in node.handlers
        ),
        features=Features(),
        info={
            "config": {
                "rootDir": str(node.root.root),
                "stateDir": str(node.state.state),
                "cgroupVersion": node.cgroups.version,
                "version": __version__,
            },
            "events": node.events.statistics(),
            "tasks": node.supervisor.statistics(),
        },
    )
