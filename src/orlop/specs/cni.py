"""CNI specification 0.3.0 to 1.1.0: network configuration lists, results and errors, from their JSON.

Configurations stay as they were written: a plugin gets every key of its object, known here or not. Pure; no I/O.
Test: tests/unit/specs/test_cni.py.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from orlop.base.errors import InvalidArgument

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""What we speak, oldest first. 0.1.0 and 0.2.0 have another result format, and no plugin of this decade needs them."""

TRY_AGAIN_LATER: Final = 11
PLUGIN_NOT_AVAILABLE: Final = 50
PLUGIN_LIMITED: Final = 51

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One plugin of a list; ``config`` is its object as written."""

    type: str
    config: JsonObject
    capabilities: frozenset[str] = frozenset()
    """The capability arguments that it asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkList:
    """A network configuration list (a single configuration counts as a list of one)."""

    name: str
    version: str
    plugins: tuple[Plugin, ...]
    disable_check: bool = False
    disable_gc: bool = False
    load_only_inlined: bool = True
    document: JsonObject = field(default_factory=dict)
    """The list as JSON with all plugins inlined: what the result cache keeps."""

    def at_least(self, version: str) -> bool:
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


class CniAddress(NamedTuple):
    address: str
    """With prefix length."""
    gateway: str
    interface: int
    """Index into the interfaces, -1 = not said."""


class CniInterface(NamedTuple):
    name: str
    mac: str
    sandbox: str


class CniRoute(NamedTuple):
    destination: str
    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of ADD, the part that the runtime uses; ``document`` is all of it."""

    interfaces: tuple[CniInterface, ...]
    addresses: tuple[CniAddress, ...]
    routes: tuple[CniRoute, ...]
    nameservers: tuple[str, ...]
    searches: tuple[str, ...]
    options: tuple[str, ...]
    document: JsonObject


class PluginError(NamedTuple):
    code: int
    message: str
    details: str

    def __str__(self) -> str:
        text = self.message or "no message"
        return f"{text}: {self.details} (code {self.code})" if self.details else f"{text} (code {self.code})"


def parse_object(data: bytes, where: str) -> JsonObject:
    """Parse one JSON object; raises InvalidArgument that begins with ``where``."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where}: is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidArgument(f"{where}: is not a JSON object")
    return parsed


def parse_list(data: bytes, where: str) -> NetworkList:
    """Parse a .conflist (an object with ``plugins``) or a .conf (an object with ``type``)."""
    document = parse_object(data, where)
    if "plugins" not in document:
        if "type" not in document:
            raise InvalidArgument(f"{where}: has neither plugins nor type")
        document = {
            **{key: document[key] for key in ("cniVersion", "cniVersions", "name") if key in document},
            "plugins": [document],
        }
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(f"{where}: name: {name!r} is not a network name")
    listed = document["plugins"]
    inlined_only = _flag(document, "loadOnlyInlinedPlugins", where)
    if not isinstance(listed, list) or (not listed and inlined_only):
        raise InvalidArgument(f"{where}: plugins: is not a list of plugins")
    return NetworkList(
        name=name,
        version=_version(document, where),
        plugins=tuple(parse_plugin(item, f"{where}: plugins[{place}]") for place, item in enumerate(listed)),
        disable_check=_flag(document, "disableCheck", where),
        disable_gc=_flag(document, "disableGC", where),
        load_only_inlined=inlined_only,
        document=document,
    )


def parse_plugin(item: object, where: str) -> Plugin:
    """Parse one plugin's object."""
    if not isinstance(item, dict):
        raise InvalidArgument(f"{where}: is not a JSON object")
    kind = item.get("type")
    # It becomes a file name below the plugin directories.
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise InvalidArgument(f"{where}.type: {kind!r} is not a plugin name")
    capabilities = item.get("capabilities", {})
    if not isinstance(capabilities, dict):
        raise InvalidArgument(f"{where}.capabilities: is not a JSON object")
    return Plugin(
        type=kind, config=item, capabilities=frozenset(name for name, wanted in capabilities.items() if wanted is True)
    )


def with_plugins(network: NetworkList, more: tuple[Plugin, ...]) -> NetworkList:
    """Return the list with plugins from a directory appended."""
    plugins = network.plugins + more
    return NetworkList(
        name=network.name,
        version=network.version,
        plugins=plugins,
        disable_check=network.disable_check,
        disable_gc=network.disable_gc,
        document={**network.document, "plugins": [plugin.config for plugin in plugins]},
    )


def _flag(document: JsonObject, key: str, where: str) -> bool:
    value = document.get(key, False)
    # libcni takes the strings too.
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise InvalidArgument(f"{where}: {key}: {value!r} is not true or false")


def _version(document: JsonObject, where: str) -> str:
    """Return the version to speak: the highest of those offered that we know."""
    offered = document.get("cniVersions", [])
    if not isinstance(offered, list):
        raise InvalidArgument(f"{where}: cniVersions: is not a list")
    single = document.get("cniVersion")
    candidates = [*offered, single] if single is not None else offered
    known = [version for version in VERSIONS if version in candidates]
    if not known:
        given = ", ".join(map(str, candidates)) or "none"
        raise InvalidArgument(f"{where}: cniVersion: {given} given, supported are {', '.join(VERSIONS)}")
    return known[-1]


def parse_result(data: bytes, where: str) -> Result:
    """Parse what a plugin printed after a successful ADD."""
    return result_of(parse_object(data, where), where)


def result_of(document: JsonObject, where: str) -> Result:
    """Read a result's parts, checking every one that we use."""
    version = document.get("cniVersion", VERSIONS[-1])
    if version not in VERSIONS:
        raise InvalidArgument(f"{where}: cniVersion: {version!r}, supported are {', '.join(VERSIONS)}")
    interfaces = tuple(
        CniInterface(_text(item, "name", where), _text(item, "mac", where), _text(item, "sandbox", where))
        for item in _objects(document, "interfaces", where)
    )
    addresses = []
    for place, item in enumerate(_objects(document, "ips", where)):
        spot = f"{where}: ips[{place}]"
        interface = item.get("interface", -1)
        if interface is None:
            interface = -1
        if not isinstance(interface, int) or not -1 <= interface < len(interfaces):
            raise InvalidArgument(f"{spot}.interface: {interface!r} is not the place of an interface")
        addresses.append(
            CniAddress(
                _parsed(item, "address", spot, network=True), _parsed(item, "gateway", spot, network=False), interface
            )
        )
    routes = [
        CniRoute(_text(item, "dst", where), _text(item, "gw", where)) for item in _objects(document, "routes", where)
    ]
    dns = document.get("dns") or {}
    if not isinstance(dns, dict):
        raise InvalidArgument(f"{where}: dns: is not a JSON object")
    return Result(
        interfaces=interfaces,
        addresses=tuple(addresses),
        routes=tuple(routes),
        nameservers=_words(dns, "nameservers", where),
        searches=_words(dns, "search", where),
        options=_words(dns, "options", where),
        document=document,
    )


def parse_error(data: bytes) -> PluginError | None:
    """Parse what a failed plugin printed; None when it is no CNI error."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("code"), int):
        return None
    return PluginError(document["code"], str(document.get("msg", "")), str(document.get("details") or ""))


def _objects(document: JsonObject, key: str, where: str) -> list[JsonObject]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidArgument(f"{where}: {key}: is not a list of JSON objects")
    return value


def _text(item: JsonObject, key: str, where: str) -> str:
    value = item.get(key) or ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}: {key}: {value!r} is not a string")
    return value


def _words(item: JsonObject, key: str, where: str) -> tuple[str, ...]:
    value = item.get(key) or []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidArgument(f"{where}: dns.{key}: is not a list of strings")
    return tuple(value)


def _parsed(item: JsonObject, key: str, where: str, *, network: bool) -> str:
    value = _text(item, key, where)
    if not value and not network:
        return ""
    try:
        parsed = ipaddress.ip_interface(value) if network else ipaddress.ip_address(value)
    except ValueError:
        raise InvalidArgument(f"{where}.{key}: {value!r} is not an IP address") from None
    if network and "/" not in value:
        raise InvalidArgument(f"{where}.{key}: {value!r} has no prefix length")
    return str(parsed)
