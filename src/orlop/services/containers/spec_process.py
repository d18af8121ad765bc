"""The process of a runtime spec: command, environment, working directory, stop signal, and that of an exec. Pure.

Owns the precedence between image and container. Test: tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

import signal as signals
from functools import lru_cache
from typing import Final

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.services.containers.spec_inputs import Host, ImageDefaults
from orlop.services.containers.spec_security import apparmor_profile, container_capabilities, selinux_label
from orlop.services.containers.user import ResolvedUser
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig, SandboxConfig

PATH_DEFAULT: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build_process(
    config: ContainerConfig,
    sandbox: SandboxConfig,
    image: ImageDefaults,
    *,
    user: ResolvedUser,
    host: Host,
    ulimits: tuple[oci.Rlimit, ...],
    subject: str,
) -> oci.Process:
    security = config.security
    cwd = config.working_dir or image.working_dir or "/"
    if not cwd.startswith("/"):
        if config.working_dir:
            raise InvalidArgument(f"{subject}: working_dir: {cwd!r} is not an absolute path")
        cwd = "/" + cwd
    return oci.Process(
        terminal=config.tty,
        user=oci.User(uid=user.uid, gid=user.gid, additional_gids=user.groups),
        args=_command(config, image, subject),
        env=_environment(config, sandbox, image, home=user.home, hostname=host.hostname, subject=subject),
        cwd=cwd,
        capabilities=container_capabilities(security, host),
        rlimits=ulimits,
        no_new_privileges=security.no_new_privs,
        oom_score_adj=config.resources.oom_score_adj,
        apparmor_profile=apparmor_profile(security, host, subject),
        selinux_label=selinux_label(security, host, subject),
    )


def _command(config: ContainerConfig, image: ImageDefaults, subject: str) -> tuple[str, ...]:
    """A command replaces entrypoint and cmd, args alone replace only cmd: Docker's rule."""
    if config.command:
        command, args = config.command, config.args
    else:
        command, args = image.entrypoint, config.args or image.cmd
        if command == ("",):
            command = ()
    if not command and not args:
        raise InvalidArgument(f"{subject}: no command: neither the container nor its image says what to run")
    return command + args


def _environment(
    config: ContainerConfig, sandbox: SandboxConfig, image: ImageDefaults, *, home: str, hostname: str, subject: str
) -> tuple[str, ...]:
    """Defaults, then the image's, then the container's; a later value takes the place of an earlier one of the same name."""
    env = {"PATH": PATH_DEFAULT}
    if config.tty:
        env["TERM"] = "TERM=xterm"
    env["HOSTNAME"] = "HOSTNAME=" + (sandbox.hostname or hostname)
    for entry in image.env:
        name, equals, _ = entry.partition("=")
        if not name:
            continue
        if equals:
            env[name] = entry
        else:
            # Docker: a name alone takes the variable away.
            env.pop(name, None)
    for item in config.envs:
        if not item.key or "=" in item.key or "\0" in item.key:
            raise InvalidArgument(f"{subject}: envs: {item.key!r} is not a name")
        env[item.key] = item.key + "=" + item.value.decode("utf-8", "surrogateescape")
    if "HOME" not in env:
        env["HOME"] = "HOME=" + home
    for name in ("HOME", "HOSTNAME"):
        # These two are copied into files by programs that know no quoting (CVE-2026-15809).
        if "\n" in env.get(name, "") or "\r" in env.get(name, ""):
            raise InvalidArgument(f"{subject}: envs: {name} holds a line break")
    return tuple(env.values())


def build_exec_process(spec: oci.RuntimeSpec, command: tuple[str, ...], *, tty: bool) -> oci.Process:
    """Return the process of an exec in a container: the container's own with another command and terminal."""
    if not command:
        raise InvalidArgument("cmd: empty")
    if spec.process is None:
        raise InvalidArgument("config.json: process: missing")
    env = spec.process.env
    if tty and not any(entry.startswith("TERM=") for entry in env):
        env = (*env, "TERM=xterm")
    return msgspec.structs.replace(spec.process, args=command, terminal=tty, env=env, console_size=None)


@lru_cache(maxsize=256)
def parse_signal(text: str) -> int | None:
    """Return the number of ``SIGTERM``, ``TERM``, ``15``, ``SIGRTMIN+3``; None when it is none."""
    word = text.strip().upper()
    if word.isascii() and word.isdigit():
        number = int(word[:4])
        return number if 0 < number <= signals.SIGRTMAX else None
    word = word.removeprefix("SIG")
    for base, value, sign in (("RTMIN", signals.SIGRTMIN, 1), ("RTMAX", signals.SIGRTMAX, -1)):
        if word.startswith(base):
            rest = word[len(base) :]
            if not rest:
                return int(value)
            if rest[0] != "+-"[sign < 0] or not rest[1:].isascii() or not rest[1:].isdigit():
                return None
            number = value + sign * int(rest[1:4])
            return number if signals.SIGRTMIN <= number <= signals.SIGRTMAX else None
    found = getattr(signals, "SIG" + word, None)
    return int(found) if isinstance(found, signals.Signals) else None


def stop_signal(config: ContainerConfig, image: ImageDefaults) -> int:
    """Return what StopContainer sends first: the container's, else the image's, else SIGTERM."""
    if config.stop_signal:
        return config.stop_signal
    return (parse_signal(image.stop_signal) if image.stop_signal else None) or int(signals.SIGTERM)
