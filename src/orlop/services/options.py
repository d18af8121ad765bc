"""What the administrator decided for all pods: values of the configuration, and what they allow a pod to ask for in an annotation.

A pod's annotations are its author's, so none gives more than the node gives by itself (CVE-2023-6476): they choose within a limit.
Test: tests/unit/services/test_options.py.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.specs.pod import ContainerConfig, SandboxConfig
from orlop.specs.quantity import parse_bytes
from orlop.specs.runtime import Rlimit
from orlop.specs.ulimit import INFINITY, NAMES, parse_ulimits, ulimit_name

DOMAIN: Final = "orlop.dev"
LOG_RATE_MIN: Final = 1024
LOG_RATE_MAX: Final = 1 << 40
ROOTFS_BYTES_MIN: Final = 64 << 10
"""The directories of an empty layer take that much."""
DEFAULT_CDI_DIRS: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))


def own_hard_limits() -> dict[str, int]:
    """Return the hard limits that a container inherits when nobody sets one."""
    found = {}
    for name in NAMES:
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}", _NUMBERS.get(name, -1)))[1]
        found[f"RLIMIT_{name.upper()}"] = INFINITY if hard == resource.RLIM_INFINITY else hard
    return found


# Those that Python's module has no name for.
_NUMBERS: Final = {"locks": 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The defaults are those of an empty configuration: nothing is limited, nothing is changed."""

    ulimits: tuple[Rlimit, ...] = ()
    """For every container, unless its pod asks for less."""
    log_rate: int = 0
    """Bytes a second of a container's log file; 0: as fast as the disk."""
    rootfs_bytes: int = 0
    """What a container's writable layer may take; 0: all that there is. Ignored, with a warning, where the file system cannot."""
    cdi_dirs: tuple[Path, ...] = DEFAULT_CDI_DIRS
    hard_limits: dict[str, int] = field(default_factory=own_hard_limits)


def asked(config: ContainerConfig, sandbox: SandboxConfig, name: str) -> tuple[str, str]:
    """Return (where it was asked, value) of an option; empty when it was not.

    The container's own annotation ``orlop.dev/NAME``, else the pod's for this container ``NAME.orlop.dev/CONTAINER``, else the pod's for all
    of its containers ``orlop.dev/NAME``.
    """
    for owner, given, key in (
        (f"container {config.metadata.name}", config.annotations, f"{DOMAIN}/{name}"),
        (f"container {config.metadata.name}: pod", sandbox.annotations, f"{name}.{DOMAIN}/{config.metadata.name}"),
        (f"container {config.metadata.name}: pod", sandbox.annotations, f"{DOMAIN}/{name}"),
    ):
        if key in given:
            return f"{owner}: annotations[{key}]", given[key]
    return "", ""


def ulimits_of(config: ContainerConfig, sandbox: SandboxConfig, options: Options) -> tuple[Rlimit, ...]:
    """Return the limits of a container: the node's, with those that were asked for in place of its.

    Raises InvalidArgument (not a limit), FailedPrecondition (above the node's hard limit).
    """
    chosen = {limit.type: limit for limit in options.ulimits}
    field_name, text = asked(config, sandbox, "ulimits")
    if text:
        try:
            wanted = parse_ulimits(text)
        except ValueError as error:
            raise InvalidArgument(f"{field_name}: {error}") from None
        for limit in wanted:
            most = chosen[limit.type].hard if limit.type in chosen else options.hard_limits.get(limit.type, INFINITY)
            if limit.hard > most:
                name = ulimit_name(limit)
                raise FailedPrecondition(
                    f"{field_name}: {name}: {_shown(limit.hard)} is above the node's hard limit {_shown(most)};"
                    f" runtime.default_ulimits sets that"
                )
            chosen[limit.type] = limit
    return tuple(chosen.values())


def log_rate_of(config: ContainerConfig, sandbox: SandboxConfig, options: Options) -> int:
    """Return the bytes a second of a container's log, 0: no limit. Raises as ulimits_of does."""
    field_name, text = asked(config, sandbox, "log-rate")
    if not text:
        return options.log_rate
    try:
        rate = parse_log_rate(text)
    except ValueError as error:
        raise InvalidArgument(f"{field_name}: {error}") from None
    if options.log_rate and rate > options.log_rate:
        raise FailedPrecondition(f"{field_name}: {text} is above the node's {options.log_rate} bytes a second")
    return rate


def rootfs_bytes_of(config: ContainerConfig, sandbox: SandboxConfig, options: Options, missing: str) -> int:
    """Return the limit of a container's writable layer, 0: none. ``missing`` says why this node has no such limits; empty: it has.

    Raises InvalidArgument, FailedPrecondition (above the node's limit, or asked for where it is not possible).
    """
    field_name, text = asked(config, sandbox, "rootfs-size")
    if not text:
        return 0 if missing else options.rootfs_bytes
    try:
        size = parse_rootfs_size(text)
    except ValueError as error:
        raise InvalidArgument(f"{field_name}: {error}") from None
    if missing:
        raise FailedPrecondition(f"{field_name}: {missing}")
    if options.rootfs_bytes and size > options.rootfs_bytes:
        raise FailedPrecondition(f"{field_name}: {text} is above the node's {options.rootfs_bytes} bytes")
    return size


def parse_rootfs_size(text: str) -> int:
    """Return bytes of ``10Gi``. Raises ValueError with the reason."""
    size = parse_bytes(text)
    if size < ROOTFS_BYTES_MIN:
        raise ValueError(f"{text!r} is less than {ROOTFS_BYTES_MIN} bytes")
    return size


def parse_log_rate(text: str) -> int:
    """Return bytes a second of ``64Ki``. Raises ValueError with the reason."""
    rate = parse_bytes(text)
    if not LOG_RATE_MIN <= rate <= LOG_RATE_MAX:
        raise ValueError(f"{text!r} is not between {LOG_RATE_MIN} and {LOG_RATE_MAX} bytes a second")
    return rate


def _shown(value: int) -> str:
    return "unlimited" if value == INFINITY else str(value)
