"""CNI plugins: which configuration counts, and ADD, DEL, CHECK and STATUS of its plugins.

    load:   <conf_dir>/*.conf, *.conflist, *.json, sorted, the first one counts; read again when the directory changes
    attach: intent written -> ADD in order, each with its predecessor's result -> result cached as libcni does
    detach: DEL in reverse with the cached result -> cache and intent removed
    start:  DEL for what no live pod has (intents, and after a reboot our entries of the cache) -> GC (CNI 1.1) with what is still valid

The intent (<state>/cni/<sandbox id>.json) holds configuration, arguments and namespace of the ADD before the first plugin
runs: so a half-done ADD, and one whose configuration was changed since, gets the right DEL, also after a restart. The result
cache (/var/lib/cni/results) has libcni's names and format: other tools can DEL our pods and see what they have; a key of our own in
it tells our entries from theirs.
Arguments are containerd's, in the spelling of the CNI conventions. Owns no address and no link. Test: tests/kernel/network/test_cni.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import json
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import msgspec

from orlop.base import faults
from orlop.base.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    OrlopError,
    Unavailable,
)
from orlop.base.ids import SandboxId
from orlop.base.limits import (
    CNI_ADD_SECONDS,
    CNI_CHECK_SECONDS,
    CNI_CONFIG_BYTES,
    CNI_DEL_SECONDS,
    CNI_GC_SECONDS,
    CNI_OUTPUT_BYTES,
    CNI_STATUS_SECONDS,
)
from orlop.network.attachment import INTERFACE, Attachment, AttachRequest, NetworkStatus, Route
from orlop.specs import cni
from orlop.specs.cni import JsonObject, NetworkList, Plugin, Result
from orlop.specs.pod import DnsConfig

log = logging.getLogger(__name__)

RESULTS: Final = Path("/var/lib/cni/results")
_SUFFIXES: Final = (".conf", ".conflist", ".json")
_INGRESS: Final = "kubernetes.io/ingress-bandwidth"
_EGRESS: Final = "kubernetes.io/egress-bandwidth"
_UNBOUNDED_BURST: Final = (1 << 32) - 1
"""Burst in bits when only a rate was asked for; containerd's value."""
_STATUS_FRESH_SECONDS: Final = 5.0
_BUSY_ATTEMPTS: Final = 6
_BUSY_SECONDS: Final = 0.5
_PIPE_SECONDS: Final = 0.5
_OWNER: Final = "io.orlop.owner"
"""Our key in an entry of the result cache, which libcni passes over: the directory of the intents, one a daemon."""
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(|[munkMGTPE]|[KMGTPE]i)")
_UNITS: Final = {
    "": Decimal(1),
    "n": Decimal(10) ** -9,
    "u": Decimal(10) ** -6,
    "m": Decimal(10) ** -3,
    **{name: Decimal(1000) ** place for place, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": Decimal(1024) ** place for place, name in enumerate("KMGTPE", 1)},
}

INTENT, ADDED, CACHED, DELETED = "network.cni.intent", "network.cni.add", "network.cni.cached", "network.cni.del"
faults.declare(INTENT, ADDED, CACHED, DELETED)


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What an ADD was asked, kept until its DEL is done."""

    sandbox_id: SandboxId
    netns: str
    config: dict[str, Any]
    arguments: list[tuple[str, str]]
    capabilities: dict[str, Any]
    path: str = ""
    """The configuration file, for messages."""


class ConfigDirectory:
    """The configuration that counts, read again when a file name, size or time in the directory changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: tuple[tuple[str, int, int, int], ...] | None = None
        self._network: NetworkList | None = None
        self._error: OrlopError | None = None
        self.path = ""

    def _fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        found = []
        for directory in (self.directory, *self._plugin_directory()):
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.name.endswith(_SUFFIXES):
                            try:
                                facts = entry.stat()
                            except FileNotFoundError:
                                continue
                            found.append((entry.path, facts.st_mtime_ns, facts.st_size, facts.st_ino))
            except (FileNotFoundError, NotADirectoryError):
                continue
        return tuple(sorted(found))

    def _plugin_directory(self) -> tuple[Path, ...]:
        return () if self._network is None else (self.directory / self._network.name,)

    def present(self) -> bool:
        """Say whether there is a configuration file, a good one or not."""
        self._refresh()
        return bool(self.path)

    def network(self) -> NetworkList:
        """Return the configuration that counts; raises InvalidArgument when it is broken, FailedPrecondition without one."""
        self._refresh()
        if self._error is not None:
            raise self._error
        if self._network is None:
            raise FailedPrecondition(f"cni: no configuration in {self.directory}")
        return self._network

    def _refresh(self) -> None:
        seen = self._fingerprint()
        if seen == self._seen:
            return
        self._network, self._error, self.path = None, None, ""
        files = [name for name, *_ in seen if os.path.dirname(name) == str(self.directory)]
        if files:
            self.path = files[0]
            try:
                self._network = self._load(Path(self.path))
            except OrlopError as error:
                self._error = error
            log.info("cni: configuration %s: %s", self.path, self._error or "read")
        # Once more: the list's own plugin directory counts from now on.
        self._seen = self._fingerprint()

    def _load(self, path: Path) -> NetworkList:
        network = cni.parse_list(_read_config(path), str(path))
        if network.load_only_inlined:
            return network
        more: list[Plugin] = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.directory / network.name)):
                if name.endswith(".conf"):
                    where = self.directory / network.name / name
                    more.append(cni.parse_plugin(cni.parse_object(_read_config(where), str(where)), str(where)))
        if not network.plugins and not more:
            raise InvalidArgument(f"{path}: plugins: none inlined, and none in {self.directory / network.name}")
        return cni.with_plugins(network, tuple(more))


def _read_config(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(CNI_CONFIG_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > CNI_CONFIG_BYTES:
        raise InvalidArgument(f"{path}: is larger than {CNI_CONFIG_BYTES} bytes")
    return data


class CniNetwork:
    """The network that a directory of configurations describes."""

    def __init__(
        self,
        *,
        conf_dir: Path,
        bin_dirs: Sequence[Path],
        intents: Path,
        results: Path = RESULTS,
        add_seconds: float = CNI_ADD_SECONDS,
        del_seconds: float = CNI_DEL_SECONDS,
        check_seconds: float = CNI_CHECK_SECONDS,
        status_seconds: float = CNI_STATUS_SECONDS,
        gc_seconds: float = CNI_GC_SECONDS,
    ) -> None:
        """``intents`` is StatePaths.cni(). The times are for all plugins of a list together."""
        self.configuration = ConfigDirectory(conf_dir)
        self._bin_dirs = tuple(bin_dirs)
        self._intents = intents
        self._results = results
        self._seconds = {"ADD": add_seconds, "DEL": del_seconds, "CHECK": check_seconds, "STATUS": status_seconds}
        self._seconds["GC"] = gc_seconds
        self._status: tuple[NetworkList, float, NetworkStatus] | None = None

    def present(self) -> bool:
        """Say whether there is a configuration."""
        return self.configuration.present()

    # A pod's life.

    async def attach(self, request: AttachRequest) -> Attachment:
        """Run ADD; needs ``netns_path``. On failure DEL is run for all plugins before the error is raised."""
        network = self.configuration.network()
        if not request.netns_path:
            raise InvalidArgument(f"sandbox {request.sandbox_id}: network {network.name}: no network namespace given")
        for plugin in network.plugins:
            # Found out before the first one has made anything: one that is missing could not be asked to take it back either.
            self._find(plugin.type, _subject(request.sandbox_id, network))
        intent = Intent(
            sandbox_id=request.sandbox_id,
            netns=request.netns_path,
            config=network.document,
            arguments=arguments_of(request),
            capabilities=capabilities_of(request),
            path=self.configuration.path,
        )
        self._write_intent(intent)
        try:
            faults.reach(INTENT)
            result = await self._add(network, intent)
            faults.reach(ADDED)
            attachment = self._attachment(network, request, result)
            self._write_result(network, intent, result)
            faults.reach(CACHED)
        except BaseException as error:
            try:
                # Shielded: a caller that gave up must not leave addresses behind.
                await asyncio.shield(self._delete(intent))
            except OrlopError as undo:
                error.add_note(f"undo of the attachment failed: {undo}")
            raise
        return attachment

    async def _add(self, network: NetworkList, intent: Intent) -> Result:
        previous: JsonObject | None = None
        result: Result | None = None
        async with self._deadline("ADD", network, intent.sandbox_id):
            for plugin in network.plugins:
                where = f"{_subject(intent.sandbox_id, network)}: plugin {plugin.type} ADD"
                printed = await self._run(network, plugin, "ADD", intent, previous)
                try:
                    result = cni.parse_result(printed, f"{where}: result")
                except InvalidArgument as error:
                    raise Internal(str(error)) from None
                # Plugins older than 1.0 may leave the version out; the next one needs it.
                previous = {"cniVersion": network.version, **result.document}
        if result is None or not _own_addresses(result):
            raise Internal(f"{_subject(intent.sandbox_id, network)}: ADD: the result has no address for {INTERFACE}")
        return result

    def _attachment(self, network: NetworkList, request: AttachRequest, result: Result) -> Attachment:
        own = _own_addresses(result)
        inside = next((each for each in result.interfaces if each.sandbox and each.name == INTERFACE), None)
        outside = [each.name for each in result.interfaces if not each.sandbox]
        return Attachment(
            sandbox_id=request.sandbox_id,
            network=network.name,
            kind="cni",
            netns=request.netns_path,
            # A bridge comes before the pod's own link in every result that has both.
            host_interface=outside[-1] if outside else "",
            mac=inside.mac if inside else "",
            ips=tuple(each.address.split("/", 1)[0] for each in own),
            addresses=tuple(each.address for each in own),
            gateways=tuple(dict.fromkeys(each.gateway for each in own if each.gateway)),
            routes=tuple(Route(destination=each.destination, gateway=each.gateway) for each in result.routes),
            dns=DnsConfig(servers=result.nameservers, searches=result.searches, options=result.options),
            port_mappings=request.port_mappings,
            cni_result=result.document,
        )

    async def detach(self, request: AttachRequest, attachment: Attachment | None = None) -> None:
        """Run DEL for what ADD was asked; without any trace of an ADD only if the attachment says that there was one."""
        intent = self._read_intent(request.sandbox_id)
        if intent is None:
            if attachment is None or attachment.kind != "cni":
                return
            intent = self._intent_from_cache(request, attachment)
        await self._delete(intent, attachment)

    def _intent_from_cache(self, request: AttachRequest, attachment: Attachment) -> Intent:
        """Make the intent anew: from the result cache, else from today's configuration."""
        cached = self._read_cache(attachment.network, request.sandbox_id)
        if cached is not None:
            try:
                config = cni.parse_object(base64.b64decode(cached.get("config", "")), "config")
            except (InvalidArgument, ValueError) as error:
                raise FailedPrecondition(
                    f"sandbox {request.sandbox_id}: network {attachment.network}: result cache: {error}"
                ) from None
        else:
            config = self.configuration.network().document
        return Intent(
            sandbox_id=request.sandbox_id,
            netns=request.netns_path or attachment.netns,
            config=config,
            arguments=arguments_of(request),
            capabilities=capabilities_of(request),
        )

    async def _delete(self, intent: Intent, attachment: Attachment | None = None) -> None:
        network = _list_of(intent)
        cached = self._read_cache(network.name, intent.sandbox_id)
        previous: JsonObject | None = None
        if cached is not None and isinstance(cached.get("result"), dict):
            previous = cached["result"]
        elif attachment is not None and attachment.cni_result is not None:
            previous = attachment.cni_result
        if previous is not None:
            previous = {"cniVersion": network.version, **previous}
        async with self._deadline("DEL", network, intent.sandbox_id):
            for plugin in reversed(network.plugins):
                await self._run(network, plugin, "DEL", intent, previous if network.at_least("0.4.0") else None)
        faults.reach(DELETED)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._cache_path(network.name, intent.sandbox_id))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._intent_path(intent.sandbox_id))

    async def check(self, request: AttachRequest, attachment: Attachment) -> None:
        """Run CHECK; networks before 0.4.0 and those that say disableCheck are taken as they are."""
        intent = self._read_intent(request.sandbox_id) or self._intent_from_cache(request, attachment)
        network = _list_of(intent)
        if network.disable_check or not network.at_least("0.4.0"):
            return
        if attachment.cni_result is None:
            raise FailedPrecondition(f"{_subject(request.sandbox_id, network)}: CHECK: no result of its ADD is known")
        previous = {"cniVersion": network.version, **attachment.cni_result}
        async with self._deadline("CHECK", network, request.sandbox_id):
            for plugin in network.plugins:
                await self._run(network, plugin, "CHECK", intent, previous)

    async def reconcile(self, live: AbstractSet[str]) -> None:
        """Run DEL for every ADD whose sandbox is not live, then GC; what fails is logged, and keeps its intent for the next time."""
        await self._delete_others(live)
        for entry in self._cached():
            sandbox_id = str(entry["containerId"])
            if entry.get(_OWNER) != str(self._intents) or sandbox_id in live or self.holds(sandbox_id):
                continue
            try:
                await self._delete(_intent_of(entry))
            except (OrlopError, ValueError, TypeError, msgspec.ValidationError) as error:
                log.error("sandbox %s: network of an earlier boot cannot be taken back: %s", sandbox_id, error)
        await self._collect_garbage(live)

    async def _collect_garbage(self, live: AbstractSet[str]) -> None:
        """Tell the plugins which attachments count (CNI 1.1 GC): ours of live pods, and those of other runtimes on the same network."""
        try:
            network = self.configuration.network()
        except OrlopError:
            return  # none, or a broken one: status says so
        if not network.at_least("1.1.0") or network.disable_gc:
            return
        valid = {(sandbox_id, INTERFACE) for sandbox_id in self._intended() if sandbox_id in live}
        valid |= {
            (str(entry["containerId"]), str(entry["ifName"]))
            for entry in self._cached()
            if entry.get("networkName") == network.name and entry.get(_OWNER) != str(self._intents)
        }
        attachments = [{"containerID": each, "ifname": name} for each, name in sorted(valid)]
        # The second name is an error of the specification's first print, which plugins of that time read.
        more: JsonObject = {"cni.dev/valid-attachments": attachments, "cni.dev/attachments": attachments}
        for plugin in network.plugins:
            try:
                async with self._deadline("GC", network, None):
                    await self._run(network, plugin, "GC", None, None, more)
            except OrlopError as error:
                log.error("%s", error)

    async def _delete_others(self, live: AbstractSet[str]) -> None:
        for sandbox_id in self._intended():
            if sandbox_id in live:
                continue
            try:
                intent = self._read_intent(SandboxId(sandbox_id))
                if intent is not None:
                    await self._delete(intent)
            except OrlopError as error:
                log.error("sandbox %s: network cannot be taken back: %s", sandbox_id, error)

    async def sweep(self, known: AbstractSet[str]) -> None:
        """Run DEL again for sandboxes that are known no more: their removal went on although a plugin had failed."""
        await self._delete_others(known)

    async def status(self) -> NetworkStatus:
        """Say whether the configuration can be used: it parses, its plugins exist, and (CNI 1.1) they answer STATUS."""
        try:
            network = self.configuration.network()
            for plugin in network.plugins:
                self._find(plugin.type, f"network {network.name}")
        except OrlopError as error:
            return NetworkStatus(False, "NetworkPluginNotReady", str(error))
        if not network.at_least("1.1.0"):
            return NetworkStatus(True)
        if self._status is not None:
            known, asked, answer = self._status
            if known is network and time.monotonic() - asked < _STATUS_FRESH_SECONDS:
                return answer
        answer = await self._ask_status(network)
        self._status = (network, time.monotonic(), answer)
        return answer

    async def _ask_status(self, network: NetworkList) -> NetworkStatus:
        try:
            async with self._deadline("STATUS", network, None):
                for plugin in network.plugins:
                    await self._run(network, plugin, "STATUS", None, None)
        except OrlopError as error:
            return NetworkStatus(False, "NetworkPluginNotReady", str(error))
        return NetworkStatus(True)

    def pod_sysctls(self) -> Mapping[str, str]:
        """Nothing: a plugin sets what its network needs (one that relies on router advertisements wants them accepted)."""
        return {}

    def set_pod_ranges(self, ranges: Sequence[str]) -> None:
        """Nothing: plugins have their ranges from their own configuration, which a network's installer writes."""

    async def close(self) -> None:
        """Nothing is held open."""

    # Files.

    def _intent_path(self, sandbox_id: str) -> Path:
        return self._intents / f"{sandbox_id}.json"

    def _write_intent(self, intent: Intent) -> None:
        _write(self._intent_path(intent.sandbox_id), msgspec.json.encode(intent))

    def _read_intent(self, sandbox_id: SandboxId) -> Intent | None:
        try:
            data = self._intent_path(sandbox_id).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(data, type=Intent)
        except msgspec.DecodeError as error:
            raise FailedPrecondition(f"sandbox {sandbox_id}: {self._intent_path(sandbox_id)}: {error}") from error

    def _intended(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._intents))
        except FileNotFoundError:
            return []
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def holds(self, sandbox_id: str) -> bool:
        """Say whether an ADD of this sandbox waits for its DEL."""
        return self._intent_path(sandbox_id).exists()

    def _cache_path(self, network: str, sandbox_id: str) -> Path:
        return self._results / f"{network}-{sandbox_id}-{INTERFACE}"

    def _read_cache(self, network: str, sandbox_id: str) -> JsonObject | None:
        path = self._cache_path(network, sandbox_id)
        try:
            return cni.parse_object(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except InvalidArgument as error:
            # Another tool's half-written file: DEL without a previous result is allowed, no DEL is a leak.
            log.warning("cni: %s", error)
            return None

    def _cached(self) -> list[JsonObject]:
        """Return the readable entries of the result cache, those of other runtimes among them."""
        found = []
        try:
            names = sorted(os.listdir(self._results))
        except FileNotFoundError:
            return []
        for name in names:
            path = self._results / name
            try:
                with path.open("rb") as file:
                    entry = cni.parse_object(file.read(CNI_OUTPUT_BYTES), str(path))
            except (OSError, InvalidArgument):
                continue  # gone, or half written by another tool
            if entry.get("kind") == "cniCacheV1" and entry.get("containerId") and entry.get("ifName"):
                found.append(entry)
        return found

    def _write_result(self, network: NetworkList, intent: Intent, result: Result) -> None:
        entry = {
            "kind": "cniCacheV1",
            "containerId": intent.sandbox_id,
            "config": base64.b64encode(json.dumps(network.document).encode()).decode(),
            "ifName": INTERFACE,
            "networkName": network.name,
            "netns": intent.netns,
            "cniArgs": intent.arguments,
            "capabilityArgs": intent.capabilities,
            "result": result.document,
            _OWNER: str(self._intents),
        }
        _write(self._cache_path(network.name, intent.sandbox_id), json.dumps(entry).encode())

    # Plugins.

    @contextlib.asynccontextmanager
    async def _deadline(self, verb: str, network: NetworkList, sandbox_id: SandboxId | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds[verb]):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{_subject(sandbox_id, network)}: {verb}: not done after {self._seconds[verb]:g} s, the plugin was killed"
            ) from error

    def _find(self, kind: str, subject: str) -> str:
        for directory in self._bin_dirs:
            path = os.path.join(directory, kind)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
        searched = ", ".join(map(str, self._bin_dirs)) or "no directory"
        raise FailedPrecondition(f"{subject}: plugin {kind}: no such program in {searched}")

    async def _run(
        self,
        network: NetworkList,
        plugin: Plugin,
        verb: str,
        intent: Intent | None,
        previous: JsonObject | None,
        more: JsonObject | None = None,
    ) -> bytes:
        """Run one plugin and return what it printed; raises with its own words when it fails."""
        subject = _subject(intent.sandbox_id if intent else None, network)
        program = self._find(plugin.type, subject)
        config: JsonObject = {**plugin.config, "name": network.name, "cniVersion": network.version, **(more or {})}
        environment = {**os.environ, "CNI_COMMAND": verb, "CNI_PATH": ":".join(map(str, self._bin_dirs))}
        if intent is not None:
            wanted = {name: value for name, value in intent.capabilities.items() if name in plugin.capabilities}
            if wanted:
                config["runtimeConfig"] = wanted
            # A namespace that is gone has nothing left to undo; the plugin still frees what it keeps outside.
            netns = intent.netns if verb == "ADD" else _if_there(intent.netns)
            environment |= {
                "CNI_CONTAINERID": intent.sandbox_id,
                "CNI_NETNS": netns,
                "CNI_IFNAME": INTERFACE,
                "CNI_ARGS": ";".join(f"{name}={value}" for name, value in intent.arguments),
            }
        if previous is not None:
            config["prevResult"] = previous
        where = f"{subject}: plugin {plugin.type} {verb}"
        code, printed, complaints = await _execute(program, environment, json.dumps(config).encode(), where)
        if code == 0:
            return printed
        raise _failure(where, code, printed, complaints)


def _failure(where: str, code: int, printed: bytes, complaints: bytes) -> OrlopError:
    problem = cni.parse_error(printed)
    if problem is None:
        how = f"exit status {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        said = (complaints or printed).decode(errors="replace").strip()[-500:]
        return Internal(f"{where}: {how}, no CNI error given{': ' + said if said else ''}")
    if problem.code in (cni.TRY_AGAIN_LATER, cni.PLUGIN_NOT_AVAILABLE, cni.PLUGIN_LIMITED):
        return Unavailable(f"{where}: {problem}")
    return Internal(f"{where}: {problem}")


class _Running(asyncio.SubprocessProtocol):
    """Collects what a plugin prints; ``done`` is set when it has ended and closed its pipes."""

    def __init__(self) -> None:
        self.printed: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.done = asyncio.get_running_loop().create_future()
        self.too_much = False
        self._open = {1, 2}
        self._exited = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.printed[fd] += data
        if len(self.printed[fd]) > CNI_OUTPUT_BYTES:
            self.too_much = True
            self._finish()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if self._exited and not self._open:
            self._finish()

    def process_exited(self) -> None:
        self._exited = True
        if not self._open:
            self._finish()
        else:
            # Something that it started keeps its stdout: what it said itself is in the pipe by now.
            asyncio.get_running_loop().call_later(_PIPE_SECONDS, self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _execute(program: str, environment: Mapping[str, str], given: bytes, where: str) -> tuple[int, bytes, bytes]:
    """Run a program to its end: (exit status or -signal, stdout, stderr). It never outlives this call."""
    transport, running = await _start(program, environment, where)
    try:
        stdin = transport.get_pipe_transport(0)
        if not isinstance(stdin, asyncio.WriteTransport):
            raise Internal(f"{where}: no pipe to stdin")
        # A plugin that ends without reading closes the pipe; its exit status tells the story.
        stdin.write(given)
        stdin.write_eof()
        await running.done
        if running.too_much:
            raise Internal(f"{where}: printed more than {CNI_OUTPUT_BYTES} bytes, it was killed")
        code = transport.get_returncode()
        if code is None:
            raise Internal(f"{where}: ended without an exit status")
        return code, bytes(running.printed[1]), bytes(running.printed[2])
    finally:
        if transport.get_returncode() is None:
            # The session was made for it (start_new_session): what it started goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
        transport.close()


async def _start(
    program: str, environment: Mapping[str, str], where: str
) -> tuple[asyncio.SubprocessTransport, _Running]:
    loop = asyncio.get_running_loop()
    for attempt in range(1, _BUSY_ATTEMPTS + 1):
        try:
            return await loop.subprocess_exec(
                _Running,
                program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            # ETXTBSY: the plugin is being replaced right now.
            if error.errno != errno.ETXTBSY or attempt == _BUSY_ATTEMPTS:
                raise Internal(f"{where}: cannot be run: {error.strerror}") from error
            await asyncio.sleep(_BUSY_SECONDS)
    raise Internal(f"{where}: cannot be run")


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    os.makedirs(path.parent, 0o700, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    os.rename(temporary, path)


def _if_there(path: str) -> str:
    return path if os.path.exists(path) else ""


def _subject(sandbox_id: str | None, network: NetworkList) -> str:
    return f"sandbox {sandbox_id}: network {network.name}" if sandbox_id else f"network {network.name}"


def _intent_of(entry: JsonObject) -> Intent:
    """Make the intent of an ADD anew from its entry in the result cache; raises ValueError and its kin for what is none."""
    return msgspec.convert(
        {
            "sandbox_id": entry["containerId"],
            "netns": entry.get("netns", ""),
            "config": cni.parse_object(base64.b64decode(entry.get("config", "")), "config"),
            "arguments": [tuple(pair) for pair in entry.get("cniArgs") or []],
            "capabilities": entry.get("capabilityArgs") or {},
        },
        Intent,
    )


def _list_of(intent: Intent) -> NetworkList:
    return cni.parse_list(json.dumps(intent.config).encode(), f"sandbox {intent.sandbox_id}: network configuration")


def _own_addresses(result: Result) -> list[cni.CniAddress]:
    """Return the addresses of the pod's eth0: those that say so, or all when the result names no interface."""
    own = [
        each
        for each in result.addresses
        if each.interface < 0
        or (result.interfaces[each.interface].sandbox and result.interfaces[each.interface].name == INTERFACE)
    ]
    # IPv4 first, as kubelet expects of a primary address; the plugin's order within a family.
    return sorted(own, key=lambda each: ":" in each.address)


def arguments_of(request: AttachRequest) -> list[tuple[str, str]]:
    """Return CNI_ARGS as Kubernetes' runtimes give them; raises InvalidArgument for a value that would forge another one."""
    arguments = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", request.pod_namespace),
        ("K8S_POD_NAME", request.pod_name),
        ("K8S_POD_INFRA_CONTAINER_ID", request.sandbox_id),
        ("K8S_POD_UID", request.pod_uid),
    ]
    for name, value in arguments:
        if any(letter in value for letter in ";\0\n"):
            raise InvalidArgument(f"sandbox {request.sandbox_id}: {name}: {value!r} cannot be passed to a CNI plugin")
    return arguments


def capabilities_of(request: AttachRequest) -> JsonObject:
    """Return the capability arguments; each plugin gets those that it asks for."""
    capabilities: JsonObject = {}
    if request.annotations:
        capabilities["io.kubernetes.cri.pod-annotations"] = dict(request.annotations)
    if request.port_mappings:
        capabilities["portMappings"] = [
            {
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol,
                "hostIP": mapping.host_ip,
            }
            for mapping in request.port_mappings
        ]
    bandwidth: JsonObject = {}
    for annotation, rate, burst in (
        (_INGRESS, "ingressRate", "ingressBurst"),
        (_EGRESS, "egressRate", "egressBurst"),
    ):
        if annotation in request.annotations:
            bits = parse_quantity(f"sandbox {request.sandbox_id}: {annotation}", request.annotations[annotation])
            bandwidth |= {rate: bits, burst: _UNBOUNDED_BURST}
    if bandwidth:
        capabilities["bandwidth"] = bandwidth
    if request.dns is not None and (request.dns.servers or request.dns.searches or request.dns.options):
        capabilities["dns"] = {
            "servers": list(request.dns.servers),
            "searches": list(request.dns.searches),
            "options": list(request.dns.options),
        }
    if request.cgroup_parent:
        capabilities["cgroupPath"] = request.cgroup_parent
    return capabilities


def parse_quantity(where: str, value: str) -> int:
    """Parse a positive Kubernetes quantity of bits a second, such as 10M; raises InvalidArgument."""
    match = _QUANTITY.fullmatch(value)
    try:
        bits = Decimal(match[1]) * _UNITS[match[2]] if match else Decimal(0)
    except (InvalidOperation, KeyError):
        bits = Decimal(0)
    # Kubernetes' own bounds: 1k to 1P.
    if not 1000 <= bits <= Decimal(1000) ** 5:
        raise InvalidArgument(f"{where}: {value!r} is not a rate between 1k and 1P bits a second")
    return int(bits)
