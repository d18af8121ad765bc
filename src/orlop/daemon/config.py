"""The daemon's configuration: config.toml, its drop-ins, and the command line, as one frozen object.

    /etc/orlop/config.toml          the whole of it may be missing: every key has a default
    /etc/orlop/config.d/*.toml      in order of name; a key given later wins, tables are merged
    --root --state --listen --log-level    win over files

A file named with --config has its drop-ins in config.d beside it. Reading collects every problem instead of stopping at the first:
each has file, line, key and reason. This module constructs nothing from what it read. Test: tests/unit/daemon/test_config.py.
"""

from __future__ import annotations

import difflib
import ipaddress
import logging
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.daemon.toml_lines import Key, key_lines
from orlop.nri.rules import Rules
from orlop.services.options import DEFAULT_CDI_DIRS, parse_log_rate, parse_rootfs_size
from orlop.specs.runtime import Rlimit
from orlop.specs.ulimit import parse_ulimit

DEFAULT_FILE: Final = Path("/etc/orlop/config.toml")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
BUILT_IN_HANDLER: Final = "orlop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """One runtime handler: orlop's own, or an OCI runtime's command line."""

    type: str = "orlop"
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    config_path: Path = Path("/etc/orlop/certs.d")
    """certs.d: one directory a host with hosts.toml and certificates, in containerd's format; read again at every pull."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CniConfig:
    conf_dir: Path = Path("/etc/cni/net.d")
    bin_dirs: tuple[Path, ...] = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The built-in network, used while cni.conf_dir has no configuration."""

    bridge: str = "orlop0"
    subnets: tuple[str, ...] = ("10.85.0.0/16",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    default_handler: str = BUILT_IN_HANDLER
    cgroup_driver: str = "cgroupfs"
    handlers: Mapping[str, Handler] = field(default_factory=lambda: {BUILT_IN_HANDLER: Handler()})
    default_ulimits: tuple[Rlimit, ...] = ()
    """Of every container; an annotation may ask for others, up to these hard limits."""
    log_rate: int = 0
    """Bytes a second of a container's log; 0 = no limit."""
    rootfs_size: int = 0
    """Bytes that a container's writable layer may take; 0 = no limit. Needs project quotas (XFS, ext4)."""
    cdi_spec_dirs: tuple[Path, ...] = DEFAULT_CDI_DIRS
    """Where device vendors describe their devices; later ones win. Empty = no CDI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingConfig:
    address: str = "127.0.0.1"
    port: int = 0
    """0 = the kernel picks one."""
    tls_cert_file: Path | None = None
    """PEM, the certificate and what it needs to be trusted; read again when it changes, and at SIGHUP. None = no TLS."""
    tls_key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    address: str = ""
    """HOST:PORT; empty = no metrics server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NriConfig:
    """Plugins that watch pods and adjust containers. On by default, as in containerd 2."""

    enabled: bool = True
    socket_path: Path | None = None
    """Where plugins connect. None: /var/run/nri/nri.sock for the default state directory, nri.sock in any other, so that daemons side by side
    do not meet there."""
    disable_connections: bool = False
    plugin_path: Path | None = None
    """Whose programs are started as plugins. None: /opt/nri/plugins for the default state directory, no directory for any other."""
    plugin_config_path: Path = Path("/etc/nri/conf.d")
    registration_timeout: float = limits.NRI_REGISTRATION_SECONDS
    request_timeout: float = limits.NRI_REQUEST_SECONDS
    default_validator: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line said; None = not given."""

    config: Path | None = None
    root: Path | None = None
    state: Path | None = None
    listen: str | None = None
    log_level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be configured."""

    root: Path = Path("/var/lib/orlop")
    state: Path = Path("/run/orlop")
    listen: str = "unix:///run/orlop/orlop.sock"
    registry: RegistryConfig = RegistryConfig()
    cni: CniConfig = CniConfig()
    network: NetworkConfig = NetworkConfig()
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    streaming: StreamingConfig = StreamingConfig()
    metrics: MetricsConfig = MetricsConfig()
    nri: NriConfig = NriConfig()
    log: LogConfig = LogConfig()
    flags: Flags = Flags()

    def reload(self) -> tuple[str, ...]:
        """Read the files again and apply what can change at run time: log.level. Returns the keys that changed, each with its effect.

        Raises InvalidArgument, and changes nothing, when the files are wrong now.
        """
        now = load(self.flags)
        logging.getLogger().setLevel(now.log.level.upper())
        changed = []
        for name, value in flatten(now).items():
            if flatten(self)[name] != value:
                changed.append(name if name == "log.level" else f"{name} (at the next start)")
        return tuple(changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in a file."""

    file: Path
    line: int
    """0 = the whole file."""
    key: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{where}: {self.key}: {self.reason}" if self.key else f"{where}: {self.reason}"


def load(flags: Flags) -> Config:
    """Return the configuration. Raises InvalidArgument with all problems, one a line."""
    config, problems = read(flags)
    if problems:
        raise InvalidArgument("\n".join(map(str, problems)))
    return config


def read(flags: Flags) -> tuple[Config, tuple[Problem, ...]]:
    """Return the configuration and all problems; with problems the configuration is only as good as the rest of the files."""
    reader = _Reader()
    for file in config_files(flags.config, reader.problems):
        reader.read(file)
    reader.check_together()
    if flags.listen is not None:
        try:
            _listen(flags.listen)
        except ValueError as error:
            reader.problems.append(Problem(file=Path("--listen"), line=0, key="", reason=str(error)))
    values = reader.values
    over = {name: getattr(flags, name) for name in ("root", "state", "listen") if getattr(flags, name) is not None}
    tables = {
        name: kind(**{key[1]: value for key, value in values.items() if len(key) == 2 and key[0] == name})
        for name, kind in _TABLES.items()
        if name != "runtime"
    }
    rules = {
        key[2]: value for key, value in values.items() if len(key) == 3 and key[:2] == ("nri", "default_validator")
    }
    tables["nri"] = replace(tables["nri"], default_validator=Rules(**rules))
    if flags.log_level is not None:
        tables["log"] = LogConfig(level=flags.log_level, format=tables["log"].format)
    runtime = RuntimeConfig(
        **{key[1]: value for key, value in values.items() if len(key) == 2 and key[0] == "runtime"},
        handlers={BUILT_IN_HANDLER: Handler(), **reader.handlers()},
    )
    top = {key[0]: value for key, value in values.items() if len(key) == 1}
    return Config(**{**top, **tables, **over}, runtime=runtime, flags=flags), tuple(reader.problems)


def check(flags: Flags) -> tuple[Problem, ...]:
    """Return all problems of the files, and handlers whose program cannot be run here: the daemon starts without these, and refuses their pods."""
    _, problems = read(flags)
    reader = _Reader()
    for file in config_files(flags.config, []):
        reader.read(file)
    reader.problems.clear()
    reader.check_programs()
    return (*problems, *reader.problems)


def config_files(named: Path | None, problems: list[Problem]) -> list[Path]:
    """Return the files to read, in order. A file that was asked for by name must exist."""
    main = named or DEFAULT_FILE
    files = [main] if main.exists() or named else []
    if named and not main.exists():
        problems.append(Problem(file=main, line=0, key="", reason="does not exist"))
        return []
    return files + sorted((main.parent / "config.d").glob("*.toml"))


def flatten(config: Config) -> dict[str, object]:
    """Return all values by dotted key."""
    found: dict[str, object] = {name: getattr(config, name) for name in ("root", "state", "listen")}
    for table in _TABLES:
        part = getattr(config, table)
        found.update({f"{table}.{name}": getattr(part, name) for name in part.__slots__})
    return found


# --- Checks: each returns the value in its final type or raises ValueError with the reason -----------------------------------


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {_kind(value)}")  # noqa: TRY004 - all checks raise ValueError
    if "\0" in value:
        raise ValueError("contains a NUL character")
    return value


def _path(value: object) -> Path:
    text = _string(value)
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path")
    return Path(text)


def _paths(value: object) -> tuple[Path, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of absolute paths")
    return tuple(_path(each) for each in value)


def _any_paths(value: object) -> tuple[Path, ...]:
    return () if value == [] else _paths(value)


def _ulimits(value: object) -> tuple[Rlimit, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of limits such as nofile=1024:65536")  # noqa: TRY004 - all checks raise ValueError
    found = {(limit := parse_ulimit(_string(each))).type: limit for each in value}
    if len(found) != len(value):
        raise ValueError("names a limit twice")
    return tuple(found.values())


def _log_rate(value: object) -> int:
    text = _string(value)
    return parse_log_rate(text) if text else 0


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of names, not {_kind(value)}")  # noqa: TRY004 - all checks raise ValueError
    return tuple(_string(each) for each in value)


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_kind(value)}")  # noqa: TRY004 - all checks raise ValueError
    return value


def _seconds(value: object) -> float:
    """A number of seconds, or text with a unit as containerd's configuration has it."""
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)", value)):
        value = float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[found[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3600:
        raise ValueError('must be seconds above 0 and up to 3600, such as 5, 0.5 or "500ms"')
    return float(value)


def _socket_path(value: object) -> Path:
    path = _path(value)
    if len(str(path).encode()) > limits.UNIX_PATH_BYTES:
        raise ValueError(f"the path is longer than {limits.UNIX_PATH_BYTES} bytes")
    return path


def _rootfs_size(value: object) -> int:
    text = _string(value)
    return parse_rootfs_size(text) if text else 0


def _one_of(*choices: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _string(value)
        if text not in choices:
            raise ValueError(f"{text!r} is not {' or '.join(choices)}")
        return text

    return check


def _listen(value: object) -> str:
    text = _string(value)
    if not text.startswith("unix:///"):
        raise ValueError(f"{text!r} is not unix:///PATH")
    if len(text.removeprefix("unix://").encode()) > limits.UNIX_PATH_BYTES:
        raise ValueError(f"the path is longer than {limits.UNIX_PATH_BYTES} bytes")
    return text


def _address(value: object) -> str:
    text = _string(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None


def _port(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise ValueError("must be a port from 0 to 65535")
    return value


def _host_port(value: object) -> str:
    text = _string(value)
    host, _, port = text.rpartition(":")
    if text and (not host or not port.isdigit() or not 0 < int(port) <= 65535):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return text


def _subnets(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of subnets such as 10.85.0.0/16")
    found = []
    for each in value:
        try:
            found.append(ipaddress.ip_network(_string(each)))
        except ValueError as error:
            raise ValueError(f"{each!r} is not a subnet: {error}") from None
    if len({each.version for each in found}) != len(found):
        raise ValueError("may hold one IPv4 and one IPv6 subnet")
    return tuple(map(str, found))


def _interface(value: object) -> str:
    text = _string(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) or text in (".", ".."):
        raise ValueError(f"{text!r} is not the name of a network interface")
    return text


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date")


_TABLES: Final[dict[str, type[Any]]] = {
    "registry": RegistryConfig,
    "cni": CniConfig,
    "network": NetworkConfig,
    "runtime": RuntimeConfig,
    "streaming": StreamingConfig,
    "metrics": MetricsConfig,
    "nri": NriConfig,
    "log": LogConfig,
}
_HANDLER: Final = "*"
_KEYS: Final[dict[Key, Callable[[object], object]]] = {
    ("root",): _path,
    ("state",): _path,
    ("listen",): _listen,
    ("registry", "config_path"): _path,
    ("cni", "conf_dir"): _path,
    ("cni", "bin_dirs"): _paths,
    ("network", "bridge"): _interface,
    ("network", "subnets"): _subnets,
    ("runtime", "default_handler"): _string,
    ("runtime", "cgroup_driver"): _one_of("cgroupfs", "systemd"),
    ("runtime", "default_ulimits"): _ulimits,
    ("runtime", "log_rate"): _log_rate,
    ("runtime", "rootfs_size"): _rootfs_size,
    ("runtime", "cdi_spec_dirs"): _any_paths,
    ("runtime", "handlers", _HANDLER, "type"): _one_of("orlop", "oci"),
    ("runtime", "handlers", _HANDLER, "path"): _path,
    ("streaming", "address"): _address,
    ("streaming", "port"): _port,
    ("streaming", "tls_cert_file"): _path,
    ("streaming", "tls_key_file"): _path,
    ("metrics", "address"): _host_port,
    ("nri", "enabled"): _bool,
    ("nri", "socket_path"): _socket_path,
    ("nri", "disable_connections"): _bool,
    ("nri", "plugin_path"): _path,
    ("nri", "plugin_config_path"): _path,
    ("nri", "registration_timeout"): _seconds,
    ("nri", "request_timeout"): _seconds,
    **{
        ("nri", "default_validator", name): _bool
        for name in (
            "enable",
            "reject_oci_hook_adjustment",
            "reject_runtime_default_seccomp_adjustment",
            "reject_unconfined_seccomp_adjustment",
            "reject_custom_seccomp_adjustment",
            "reject_namespace_adjustment",
            "reject_sysctl_adjustment",
        )
    },
    ("nri", "default_validator", "required_plugins"): _names,
    ("nri", "default_validator", "tolerate_missing_plugins_annotation"): _string,
    ("log", "level"): _one_of(*LOG_LEVELS),
    ("log", "format"): _one_of("text", "json"),
}


class _Reader:
    """Collects values and problems over all files; remembers where each key was given last."""

    def __init__(self) -> None:
        self.values: dict[Key, Any] = {}
        self.problems: list[Problem] = []
        self._given: dict[Key, tuple[Path, int]] = {}

    def read(self, file: Path) -> None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            self.problems.append(Problem(file=file, line=0, key="", reason=f"cannot be read: {reason}"))
            return
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.problems.append(_syntax_problem(file, text, error))
            return
        lines = key_lines(text)
        self._walk(file, lines, (), document)

    def _walk(self, file: Path, lines: Mapping[Key, int], path: Key, table: Mapping[str, object]) -> None:
        for name, value in table.items():
            key = (*path, name)
            pattern = _pattern(key)
            check = _KEYS.get(pattern)
            is_table = any(known[: len(pattern)] == pattern for known in _KEYS) and check is None
            self._given[key] = (file, _line(lines, key))
            if check is not None:
                try:
                    self.values[key] = check(value)
                except ValueError as error:
                    self._complain(key, str(error))
            elif not is_table:
                self._complain(key, f"unknown key{_suggestion(pattern)}")
            elif not isinstance(value, dict):
                self._complain(key, f"must be a table, not {_kind(value)}")
            else:
                self._walk(file, lines, key, value)

    def check_together(self) -> None:
        """Check what one key alone can't say."""
        for name, handler in self.handlers().items():
            key = ("runtime", "handlers", name)
            if name == BUILT_IN_HANDLER and handler.type != "orlop":
                self._complain(key, "this name is built in and can't be of type oci")
            elif handler.type == "oci" and handler.path is None:
                self._complain(key, "type oci needs path, the OCI runtime's program")
            elif handler.type == "orlop" and handler.path is not None:
                self._complain((*key, "path"), "is only for type oci")
            elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                self._complain(key, f"{name!r} is not a handler name")
        chosen = self.values.get(("runtime", "default_handler"))
        if chosen not in (None, "", BUILT_IN_HANDLER) and chosen not in self.handlers():
            self._complain(("runtime", "default_handler"), f"there is no [runtime.handlers.{chosen}]")

        pair = [("streaming", "tls_cert_file"), ("streaming", "tls_key_file")]
        for given, other in (pair, pair[::-1]):
            if given in self.values and other not in self.values:
                self._complain(given, f"needs {'.'.join(other)} as well")

    def check_programs(self) -> None:
        """Say which handlers' programs are not there."""
        for name, handler in self.handlers().items():
            if handler.path is None or (handler.path.is_file() and os.access(handler.path, os.X_OK)):
                continue
            reason = "is not an executable file" if handler.path.exists() else "does not exist"
            self._complain(("runtime", "handlers", name, "path"), f"{handler.path} {reason}")

    def handlers(self) -> dict[str, Handler]:
        names = [key[2] for key in self._given if len(key) == 3 and key[:2] == ("runtime", "handlers")]
        return {
            name: Handler(
                type=self.values.get(("runtime", "handlers", name, "type"), "orlop"),
                path=self.values.get(("runtime", "handlers", name, "path")),
            )
            for name in names
        }

    def _complain(self, key: Key, reason: str) -> None:
        file, line = self._given[key]
        self.problems.append(Problem(file=file, line=line, key=".".join(key), reason=reason))


def _pattern(key: Key) -> Key:
    return (*key[:2], _HANDLER, *key[3:]) if key[:2] == ("runtime", "handlers") and len(key) > 2 else key


def _line(lines: Mapping[Key, int], key: Key) -> int:
    while key and key not in lines:  # inside an inline table: the line of what it belongs to
        key = key[:-1]
    return lines.get(key, 0)


def _suggestion(pattern: Key) -> str:
    known = {
        each[len(pattern) - 1]
        for each in _KEYS
        if len(each) >= len(pattern) and each[: len(pattern) - 1] == pattern[:-1]
    }
    close = difflib.get_close_matches(pattern[-1], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _syntax_problem(file: Path, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    message = str(error)
    found = re.search(r" \(at line (\d+), column \d+\)$| \(at end of document\)$", message)
    reason = message[: found.start()] if found else message
    line = int(found[1]) if found and found[1] else len(text.splitlines()) or 1
    return Problem(file=file, line=line, key="", reason=reason[:1].lower() + reason[1:])
