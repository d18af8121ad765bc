"""hosts.toml: where a registry's content may be fetched from, in containerd's format (docs/hosts.md).

    server = "https://registry-1.docker.io"
    [host."https://mirror.example"]
      capabilities = ["pull", "resolve"]
      ca = "ca.crt"

Hosts are tried in the order of the file, the server last. Parses text; which file is read is registry/hosts.py's
business. Test: tests/unit/specs/test_hosts_toml.py.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orlop.base.errors import InvalidArgument

CAPABILITIES = frozenset(("pull", "resolve", "push", "referrers"))
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_KEYS = frozenset(
    ("capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout", "server", "host")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHost:
    """One place to fetch from, and how."""

    scheme: str
    authority: str
    """Host with optional port."""
    path: str
    """Prefix of requests: ``/v2`` unless override_path keeps what the URL says."""
    capabilities: frozenset[str] = frozenset(("pull", "resolve", "push"))
    ca: tuple[Path, ...] = ()
    client: tuple[tuple[Path, Path | None], ...] = ()
    """Certificate and key; no key means that the certificate's file has both."""
    skip_verify: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    dial_timeout: float | None = None

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsFile:
    """A parsed hosts.toml: mirrors in order, then the server (None: the registry itself)."""

    hosts: tuple[RegistryHost, ...]
    server: RegistryHost | None


def parse_hosts(text: str, directory: Path, subject: str) -> HostsFile:
    """Parse a file; relative paths in it are relative to ``directory``. Raises InvalidArgument naming key and reason."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{subject}: {error}") from error
    tables = document.get("host", {})
    if not isinstance(tables, dict):
        raise InvalidArgument(f"{subject}: host: is not a table")
    hosts = tuple(_host(url, table, directory, f"{subject}: host.{url!r}") for url, table in tables.items())
    server = document.get("server")
    if server is None:
        return HostsFile(hosts=hosts, server=None)
    if not isinstance(server, str):
        raise InvalidArgument(f"{subject}: server: is not a string")
    settings = {key: value for key, value in document.items() if key not in ("server", "host")}
    return HostsFile(hosts=hosts, server=_host(server, settings, directory, f"{subject}: server"))


def _host(url: str, table: Any, directory: Path, subject: str) -> RegistryHost:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{subject}: is not a table")
    for key in table:
        if key not in _KEYS:
            raise InvalidArgument(f"{subject}: {key}: is not a known key")
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"{subject}: is not a URL: {error}") from error
    if port == 0 or parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise InvalidArgument(f"{subject}: is not an http or https URL")
    path = parts.path.rstrip("/")
    if not _boolean(table, "override_path", subject) and not path.endswith("/v2"):
        path = f"{path}/v2"
    return RegistryHost(
        scheme=parts.scheme,
        authority=parts.netloc,
        path=path,
        capabilities=_capabilities(table, subject),
        ca=tuple(directory / name for name in _strings(table, "ca", subject)),
        client=_client(table, directory, subject),
        skip_verify=_boolean(table, "skip_verify", subject),
        headers=_headers(table, subject),
        dial_timeout=_duration(table, subject),
    )


def _boolean(table: dict[str, Any], key: str, subject: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{subject}: {key}: is not true or false")
    return value


def _strings(table: dict[str, Any], key: str, subject: str) -> list[str]:
    value = table.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise InvalidArgument(f"{subject}: {key}: is not a string or a list of strings")
    return list(values)


def _capabilities(table: dict[str, Any], subject: str) -> frozenset[str]:
    names = _strings(table, "capabilities", subject)
    for name in names:
        if name not in CAPABILITIES:
            raise InvalidArgument(f"{subject}: capabilities: {name!r} is not one of {', '.join(sorted(CAPABILITIES))}")
    return frozenset(names) if names else frozenset(("pull", "resolve", "push"))


def _client(table: dict[str, Any], directory: Path, subject: str) -> tuple[tuple[Path, Path | None], ...]:
    value = table.get("client", [])
    pairs = [value] if isinstance(value, str) else value
    if not isinstance(pairs, list):
        raise InvalidArgument(f"{subject}: client: is not a string or a list")
    result: list[tuple[Path, Path | None]] = []
    for pair in pairs:
        match pair:
            case str() as both:
                result.append((directory / both, None))
            case [str() as certificate] | [str() as certificate, ""]:
                result.append((directory / certificate, None))
            case [str() as certificate, str() as key]:
                result.append((directory / certificate, directory / key))
            case _:
                raise InvalidArgument(f"{subject}: client: {pair!r} is not a file or a [certificate, key] pair")
    return tuple(result)


def _headers(table: dict[str, Any], subject: str) -> dict[str, str]:
    value = table.get("header", {})
    if not isinstance(value, dict):
        raise InvalidArgument(f"{subject}: header: is not a table")
    return {name: ", ".join(_strings(value, name, f"{subject}: header")) for name in value}


def _duration(table: dict[str, Any], subject: str) -> float | None:
    value = table.get("dial_timeout")
    if value is None:
        return None
    matches = list(_DURATION.finditer(value)) if isinstance(value, str) else []
    if not matches or "".join(match[0] for match in matches) != value:
        raise InvalidArgument(f"{subject}: dial_timeout: {value!r} is not a duration as 10s")
    return sum(float(match[1]) * _SECONDS[match[2]] for match in matches)
