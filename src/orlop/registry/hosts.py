"""Which hosts serve a registry's content: ``certs.d/<registry>/hosts.toml``, read again at every pull.

Looks below config_path for ``<host>_<port>_``, ``<host>:<port>`` (or ``<host>``), then ``_default``, as containerd
does. Without a file the registry itself is asked: over plain HTTP on loopback, over HTTPS everywhere else. Owns the
look-up; the format is specs/hosts_toml.py. Test: tests/unit/registry/test_hosts.py.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

from orlop.base.errors import FailedPrecondition
from orlop.specs.hosts_toml import RegistryHost, parse_hosts

DOCKER_HUB = "registry-1.docker.io"


def lookup_hosts(config_path: Path | None, registry: str) -> tuple[RegistryHost, ...]:
    """Return where to ask for a registry's content, best first; the last one is the registry itself or its ``server``.

    Raises InvalidArgument for a file that cannot be parsed, FailedPrecondition for one that cannot be read.
    """
    own = registry_itself(registry)
    if config_path is None:
        return (own,)
    host, colon, port = registry.rpartition(":")
    names = [f"{host}_{port}_", registry] if colon else [registry]
    for name in (*names, "_default"):
        directory = config_path / name
        try:
            text = (directory / "hosts.toml").read_text()
        except (FileNotFoundError, NotADirectoryError):
            if not directory.is_dir():
                continue
            return (_docker_style(own, directory),)
        except (OSError, UnicodeDecodeError) as error:
            raise FailedPrecondition(f"registry {registry}: cannot read {directory / 'hosts.toml'}: {error}") from error
        parsed = parse_hosts(text, directory, f"registry {registry}: {directory / 'hosts.toml'}")
        return (*parsed.hosts, parsed.server or own)
    return (own,)


def registry_itself(registry: str) -> RegistryHost:
    authority = DOCKER_HUB if registry == "docker.io" else registry
    scheme = "http" if is_loopback(host_of(authority)) else "https"
    return RegistryHost(scheme=scheme, authority=authority, path="/v2")


def host_of(authority: str) -> str:
    """Return the host of ``host[:port]``."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Say whether a literal host is this machine, as docker and containerd see it."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _docker_style(own: RegistryHost, directory: Path) -> RegistryHost:
    """A directory without hosts.toml: *.crt are authorities, *.cert with *.key are what the client shows; with either it is HTTPS."""
    authorities = tuple(sorted(directory.glob("*.crt")))
    pairs = tuple((certificate, certificate.with_suffix(".key")) for certificate in sorted(directory.glob("*.cert")))
    return replace(own, scheme="https" if authorities or pairs else own.scheme, ca=authorities, client=pairs)
