"""orlop run: a pod with one container, with docker's words, flags and exit codes.

The exit code is the container's; 125 when it could not be made, 126 when its command can't be executed, 127 when there is no such
command. Steps: options -> configs (pure) -> image there? -> pod -> container -> streams connected -> start -> exit code -> --rm.
Test: tests/unit/cli/test_run.py (options to configs), tests/cri/test_cli.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from orlop.base.errors import InvalidArgument, NotFound, OrlopError
from orlop.base.paths import RUN_LOGS
from orlop.cli.client import Client
from orlop.cli.find import (
    ANNOTATION_COMMAND,
    ANNOTATION_LOGS,
    ANNOTATION_PORTS,
    ANNOTATION_REMOVE,
    LABEL_CLI,
    LABEL_NAME,
    NAMESPACE,
    container_name,
    find_container,
)
from orlop.cli.signals import cri_signal, signal_number
from orlop.cli.terminal import add_detach_keys
from orlop.cli.units import parse_size
from orlop.specs.cri_gen import api_pb2 as pb
from orlop.specs.cri_gen import orlop_pb2

EXIT_ERROR: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
OUTPUT_SECONDS: Final = 0.01
"""How often the log of a container in the foreground is looked at."""
CPU_PERIOD: Final = 100_000
NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
PROPAGATIONS: Final = {
    "private": pb.PROPAGATION_PRIVATE,
    "rprivate": pb.PROPAGATION_PRIVATE,
    "slave": pb.PROPAGATION_HOST_TO_CONTAINER,
    "rslave": pb.PROPAGATION_HOST_TO_CONTAINER,
    "shared": pb.PROPAGATION_BIDIRECTIONAL,
    "rshared": pb.PROPAGATION_BIDIRECTIONAL,
}
# What docker and kubelet hide from containers that are not privileged.
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

EPILOG = """exit codes:
  the container's own; 125 it could not be made, 126 its command can't be executed, 127 there is no such command"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("image", metavar="IMAGE")
    add("command", nargs=argparse.REMAINDER, metavar="CMD ...", help="what to run instead of the image's own command")
    add("--name", default="", help="name of the container (default: a random one)")
    add("-d", "--detach", action="store_true", help="run in the background and print the container's id")
    add("-i", "--interactive", action="store_true", help="keep standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add_detach_keys(parser)
    add("--rm", action="store_true", help="remove the container when it has ended")
    add("-e", "--env", action="append", default=[], metavar="K[=V]", help="set a variable, or pass it on from here")
    add("--env-file", action="append", default=[], metavar="FILE", help="set the variables in a file")
    add("-p", "--publish", action="append", default=[], metavar="[IP:]HOST:PORT[/PROTO]", help="publish a port")
    add("-v", "--volume", action="append", default=[], metavar="HOST:PATH[:OPTIONS]", help="mount a directory or file")
    add(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="pass on HOST[:PATH[:rwm]], or VENDOR/CLASS=NAME",
    )
    add("-u", "--user", default="", metavar="USER[:GROUP]", help="user by name or uid, group by gid")
    add("--group-add", action="append", default=[], type=int, metavar="GID", help="additional group")
    add("-w", "--workdir", default="", metavar="DIR", help="working directory")
    add("-h", "--hostname", default="", help="hostname (default: the container's name)")
    add("--entrypoint", default=None, metavar="CMD", help="run this instead of the image's entrypoint")
    add("-l", "--label", action="append", default=[], metavar="K=V")
    add("--annotation", action="append", default=[], metavar="K=V")
    add("--network", "--net", default="bridge", metavar="bridge|host", help="its own network (default), or the host's")
    add("--pid", default="", choices=["", "host"], metavar="host", help="use the host's PID namespace")
    add("--ipc", default="", choices=["", "host"], metavar="host", help="use the host's IPC namespace")
    add("--init", action="store_true", help="run an init as PID 1 that reaps what the command leaves")
    add("--dns", action="append", default=[], metavar="ADDRESS")
    add("--dns-search", action="append", default=[], metavar="DOMAIN")
    add("--dns-option", action="append", default=[], metavar="OPTION")
    add("--privileged", action="store_true", help="all capabilities and devices, nothing hidden")
    add("--cap-add", action="append", default=[], metavar="CAP")
    add("--cap-drop", action="append", default=[], metavar="CAP")
    add(
        "--security-opt",
        action="append",
        default=[],
        metavar="OPT",
        help="no-new-privileges, seccomp=unconfined, seccomp=FILE, apparmor=unconfined, apparmor=PROFILE",
    )
    add("--read-only", action="store_true", help="mount the root file system read-only")
    add("--sysctl", action="append", default=[], metavar="K=V")
    add("-m", "--memory", default="", metavar="SIZE", help="memory limit, such as 512m")
    add("--memory-swap", default="", metavar="SIZE", help="memory and swap together; -1 is unlimited swap")
    add("--cpus", default=None, type=float, metavar="N", help="CPU limit, such as 1.5")
    add("-c", "--cpu-shares", default=0, type=int, metavar="N", help="relative weight (default 1024)")
    add("--cpuset-cpus", default="", metavar="LIST")
    add("--cpuset-mems", default="", metavar="LIST")
    add("--oom-score-adj", default=0, type=int, metavar="N")
    add("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="limit of its processes")
    add("--log-rate", default="", metavar="BYTES", help="drop log lines above so many bytes a second, such as 64Ki")
    add("--stop-signal", default="", metavar="SIGNAL")
    add("--runtime", default="", metavar="HANDLER", help="runtime handler (default: the daemon's)")
    add("--pull", default="missing", choices=["missing", "always", "never"], help="when to pull (default missing)")
    add("-q", "--quiet", action="store_true", help="no progress while pulling")


def run(options: argparse.Namespace) -> int:
    if options.tty and options.interactive and not options.detach and not sys.stdin.isatty():
        raise InvalidArgument("-t with -i: standard input is not a terminal")
    name = options.name or random_name()
    logs = RUN_LOGS / f"{name}-{secrets.token_hex(4)}"
    sandbox = sandbox_config(options, name, logs)
    container = container_config(options, name, logs)
    with Client(options.address) as client:
        if options.name:
            _refuse_taken(client, name)
        container.image.image = have_image(client, options)
        make_host_directories(container)
        return _run(client, options, sandbox, container)


def _run(
    client: Client, options: argparse.Namespace, sandbox: pb.PodSandboxConfig, container: pb.ContainerConfig
) -> int:
    pod_id = client.runtime.RunPodSandbox(
        pb.RunPodSandboxRequest(config=sandbox, runtime_handler=options.runtime)
    ).pod_sandbox_id
    keep = False
    try:
        container_id = client.runtime.CreateContainer(
            pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=container, sandbox_config=sandbox)
        ).container_id
        if options.detach:
            client.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
            keep = True
            if options.rm:
                client.node.RemoveWhenEnded(orlop_pb2.RemoveWhenEndedRequest(container_id=container_id))
            print(container_id)
            return 0
        code = _in_foreground(client, options, container_id, Path(sandbox.log_directory) / container.log_path)
        keep = not options.rm or code is None
        if code is None and options.rm:  # the user has detached: the daemon removes it when it ends
            client.node.RemoveWhenEnded(orlop_pb2.RemoveWhenEndedRequest(container_id=container_id))
        return code or 0
    except OrlopError as error:
        code = exit_code_of(error)
        print(f"orlop run: {error}", file=sys.stderr)
        return code
    except SystemExit:  # a signal has ended us at a terminal: as when the user detaches
        keep = not options.rm
        raise
    finally:
        if keep:
            _stop_ended_pod(client, pod_id, container_id, detached=options.detach)
        else:
            remove_pod(client, pod_id, sandbox.log_directory)


def _in_foreground(client: Client, options: argparse.Namespace, container_id: str, log: Path) -> int | None:
    """Start the container with its streams connected to ours; return its exit code, or None when the user detached.

    A terminal's output comes through the daemon, which cuts off who reads too slowly: a person at a terminal sees the latest anyway.
    Other output is read from the log file, because a pipe must get every byte.
    """
    from orlop.cli.terminal import converse

    start = orlop_pb2.AttachStart(
        container_id=container_id,
        stdin=options.interactive,
        tty=options.tty,
        start_container=True,
        no_output=not options.tty,
    )

    def kill(number: int) -> None:
        with contextlib.suppress(OrlopError):  # it may have ended a moment ago
            client.node.Kill(orlop_pb2.KillRequest(container_id=container_id, signal=number))

    with contextlib.nullcontext() if options.tty else _output_of(log, lambda: kill(signal.SIGKILL)):
        return converse(
            client.node.Attach,
            orlop_pb2.AttachInput(start=start),
            orlop_pb2.AttachInput,
            stdin=options.interactive,
            terminal=options.tty and sys.stdin.isatty(),
            on_signal=kill,
            keys=options.detach_keys,
        )


@contextlib.contextmanager
def _output_of(log: Path, on_closed: Callable[[], None]) -> Iterator[None]:
    """Copy the container's output from its log as long as the context lasts, and what is left of it at the end."""
    from orlop.cli.logs import Printer, follow

    ended = threading.Event()
    printer = Printer(since=b"", until=b"", timestamps=False)
    with log.open("rb") as file:

        def copy() -> None:
            try:
                follow(lambda: not ended.is_set(), str(log), file, printer, OUTPUT_SECONDS)
            except BrokenPipeError:
                # `orlop run ... | head`: nobody wants the rest. A process would die of SIGPIPE; a container's first one ignores that.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                on_closed()

        copier = threading.Thread(target=copy, name="output")
        copier.start()
        try:
            yield
        finally:
            ended.set()
            copier.join()


def _stop_ended_pod(client: Client, pod_id: str, container_id: str, *, detached: bool) -> None:
    """A kept container that has ended needs no network any more; one that runs on (detached) does."""
    if detached:
        return
    status = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container_id)).status
    if status.state == pb.CONTAINER_EXITED:
        client.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))


def remove_pod(client: Client, pod_id: str, log_directory: str) -> None:
    """Remove a pod that `orlop run` made, with its logs."""
    client.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod_id))
    client.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod_id))
    # Only what `run` makes itself is removed: a directory right below its own root.
    if log_directory and Path(log_directory).parent == RUN_LOGS:
        shutil.rmtree(log_directory, ignore_errors=True)


def exit_code_of(error: OrlopError) -> int:
    """Return docker's exit code for a container that could not be started: 127 no such command, 126 not executable, else 125."""
    text = str(error).lower()
    if re.search(r"\bexec\b", text):
        if "no such file" in text or "not found" in text:
            return EXIT_NOT_FOUND
        if any(
            reason in text for reason in ("permission denied", "exec format error", "is a directory", "not executable")
        ):
            return EXIT_NOT_EXECUTABLE
    return EXIT_ERROR


def have_image(client: Client, options: argparse.Namespace) -> str:
    """Return the reference to create the container from, pulling when --pull says so."""
    asked = pb.ImageSpec(image=options.image)
    if options.pull != "always":
        status = client.images.ImageStatus(pb.ImageStatusRequest(image=asked))
        if status.HasField("image"):
            return str(options.image)
        if options.pull == "never":
            raise NotFound(f"image {options.image}: is not on this host, and --pull is never")
    from orlop.cli.pull import pull

    pull(client, orlop_pb2.PullRequest(image=options.image), quiet=options.quiet)
    return str(options.image)


def _refuse_taken(client: Client, name: str) -> None:
    with contextlib.suppress(NotFound):
        taken = find_container(client, name)
        if container_name(taken) == name:
            raise InvalidArgument(f"name {name!r} is taken by container {taken.id[:12]}; remove it or choose another")


# --- Options to configs: pure, except that env files and seccomp profiles are named relative to here ---------------------------


def sandbox_config(options: argparse.Namespace, name: str, logs: Path) -> pb.PodSandboxConfig:
    """Return the pod's config. Raises InvalidArgument naming the option."""
    if not NAME.fullmatch(name) or len(name) > 200:
        raise InvalidArgument(
            f"--name: {name!r} may have letters, digits and _.- only, and begins with a letter or digit"
        )
    if options.network not in ("bridge", "host", "default"):
        raise InvalidArgument(f"--network: {options.network!r} is not bridge or host")
    host_network = options.network == "host"
    if host_network and options.publish:
        raise InvalidArgument("-p: with --network host every port of the container is the host's already")
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid=name, namespace=NAMESPACE),
        hostname="" if host_network else (options.hostname or re.sub(r"[^a-zA-Z0-9-]", "-", name))[:63],
        log_directory=str(logs),
        port_mappings=[mapping for text in options.publish for mapping in ports(text)],
        labels={LABEL_CLI: "run", LABEL_NAME: name, **pairs(options.label, "--label")},
        annotations=pairs(options.annotation, "--annotation"),
        linux=pb.LinuxPodSandboxConfig(
            sysctls=pairs(options.sysctl, "--sysctl"),
            security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=namespaces(options), privileged=options.privileged
            ),
        ),
    )
    if options.dns or options.dns_search or options.dns_option:
        config.dns_config.CopyFrom(
            pb.DNSConfig(servers=options.dns, searches=options.dns_search, options=options.dns_option)
        )
    return config


def container_config(options: argparse.Namespace, name: str, logs: Path) -> pb.ContainerConfig:
    """Return the container's config. Raises InvalidArgument naming the option."""
    command = list(options.command)
    if command[:1] == ["--"]:
        command = command[1:]
    shown = " ".join(([options.entrypoint] if options.entrypoint else []) + command)
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name),
        image=pb.ImageSpec(image=options.image, user_specified_image=options.image),
        command=[options.entrypoint] if options.entrypoint else [],
        args=command,
        working_dir=options.workdir,
        envs=[pb.KeyValue(key=key, value=value) for key, value in environment(options).items()],
        mounts=[mount(text) for text in options.volume],
        devices=[device(text) for text in options.device if not is_cdi(text)],
        CDI_devices=[pb.CDIDevice(name=text) for text in options.device if is_cdi(text)],
        labels={LABEL_CLI: "run", LABEL_NAME: name, **pairs(options.label, "--label")},
        annotations={
            # Read by the daemon: it removes what has ended, also after it was started anew.
            **({ANNOTATION_REMOVE: "true"} if options.rm and options.detach else {}),
            ANNOTATION_COMMAND: shown,
            ANNOTATION_PORTS: ", ".join(options.publish),
            ANNOTATION_LOGS: str(logs),
            **({"orlop.dev/ulimits": ",".join(options.ulimit)} if options.ulimit else {}),
            **({"orlop.dev/log-rate": options.log_rate} if options.log_rate else {}),
            **pairs(options.annotation, "--annotation"),
        },
        log_path="0.log",
        stdin=options.interactive,
        # In the foreground its input ends with ours; in the background whoever attaches may come and go.
        stdin_once=options.interactive and not options.detach,
        tty=options.tty,
        linux=pb.LinuxContainerConfig(resources=resources(options), security_context=security(options)),
    )
    if options.stop_signal:
        config.stop_signal = cri_signal(signal_number(options.stop_signal, "--stop-signal"))
    return config


def namespaces(options: argparse.Namespace) -> pb.NamespaceOption:
    pid = pb.NODE if options.pid == "host" else pb.POD if options.init else pb.CONTAINER
    return pb.NamespaceOption(
        network=pb.NODE if options.network == "host" else pb.POD,
        pid=pid,
        ipc=pb.NODE if options.ipc == "host" else pb.POD,
    )


def security(options: argparse.Namespace) -> pb.LinuxContainerSecurityContext:
    context = pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=[capability(each) for each in options.cap_add],
            drop_capabilities=[capability(each) for each in options.cap_drop],
        ),
        privileged=options.privileged,
        namespace_options=namespaces(options),
        readonly_rootfs=options.read_only,
        supplemental_groups=options.group_add,
        masked_paths=() if options.privileged else MASKED_PATHS,
        readonly_paths=() if options.privileged else READONLY_PATHS,
        seccomp=pb.SecurityProfile(
            profile_type=pb.SecurityProfile.Unconfined if options.privileged else pb.SecurityProfile.RuntimeDefault
        ),
    )
    for text in options.security_opt:
        key, _, value = text.partition("=") if "=" in text else text.partition(":")
        if key == "no-new-privileges" and value in ("", "true"):
            context.no_new_privs = True
        elif key == "seccomp" and value:
            context.seccomp.CopyFrom(_profile(value, os.path.abspath(value)))
        elif key == "apparmor" and value:
            context.apparmor.CopyFrom(_profile(value, value))
        else:
            raise InvalidArgument(f"--security-opt: {text!r} is not known")
    if options.user:
        user, _, group = options.user.partition(":")
        if user.isdigit():
            context.run_as_user.value = int(user)
        else:
            context.run_as_username = user
        if group:
            if not group.isdigit():
                raise InvalidArgument(f"-u: the group {group!r} must be a number; CRI has no group names")
            context.run_as_group.value = int(group)
    return context


def _profile(value: str, reference: str) -> pb.SecurityProfile:
    if value == "unconfined":
        return pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=reference)


def capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def resources(options: argparse.Namespace) -> pb.LinuxContainerResources:
    swap = options.memory_swap
    made = pb.LinuxContainerResources(
        cpu_shares=options.cpu_shares,
        cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems,
        oom_score_adj=options.oom_score_adj,
        memory_limit_in_bytes=parse_size(options.memory, "--memory") if options.memory else 0,
        memory_swap_limit_in_bytes=(-1 if swap == "-1" else parse_size(swap, "--memory-swap")) if swap else 0,
    )
    if options.cpus is not None:
        if not options.cpus > 0:
            raise InvalidArgument(f"--cpus: {options.cpus:g} is not more than 0")
        made.cpu_period = CPU_PERIOD
        made.cpu_quota = int(options.cpus * CPU_PERIOD)
    return made


def environment(options: argparse.Namespace) -> dict[str, bytes]:
    """Return the variables; -e wins over --env-file, a name without a value is passed on from here if it is set."""
    found: dict[str, bytes] = {}
    for file in options.env_file:
        try:
            lines = Path(file).read_bytes().splitlines()
        except OSError as error:
            raise InvalidArgument(f"--env-file: {file}: {error.strerror}") from error
        for line in lines:
            if line.strip() and not line.lstrip().startswith(b"#"):
                _put_variable(found, os.fsdecode(line.lstrip()), f"--env-file {file}")
    for text in options.env:
        _put_variable(found, text, "-e")
    return found


def _put_variable(found: dict[str, bytes], text: str, option: str) -> None:
    key, given, value = text.partition("=")
    if not key:
        raise InvalidArgument(f"{option}: {text!r} has no name")
    if given:
        found[key] = os.fsencode(value)
    elif key in os.environ:
        found[key] = os.environb[os.fsencode(key)]


def pairs(texts: list[str], option: str) -> dict[str, str]:
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise InvalidArgument(f"{option}: {text!r} is not K=V")
        found[key] = value
    return found


def ports(text: str) -> list[pb.PortMapping]:
    """Return the mappings of one -p: ``8080:80``, ``127.0.0.1:8080:80/udp``, ``[::1]:53:53/udp``, ``8000-8002:80-82``."""
    ip, host, inner, protocol = _port_parts(text)
    protocols = {"tcp": pb.TCP, "udp": pb.UDP, "sctp": pb.SCTP}
    if protocol not in protocols:
        raise InvalidArgument(f"-p: {text!r}: {protocol!r} is not tcp, udp or sctp")
    if not host:
        raise InvalidArgument(f"-p: {text!r}: give the host's port too, as in 8080:{inner}; none is chosen for you")
    outer_range, inner_range = _port_range(host, text), _port_range(inner, text)
    if len(outer_range) != len(inner_range):
        raise InvalidArgument(f"-p: {text!r}: the two ranges are not of the same length")
    return [
        pb.PortMapping(protocol=protocols[protocol], host_ip=ip, host_port=outer, container_port=port)
        for outer, port in zip(outer_range, inner_range, strict=True)
    ]


def _port_parts(text: str) -> tuple[str, str, str, str]:
    rest, _, protocol = text.partition("/")
    rest, _, inner = rest.rpartition(":")
    ip, separator, host = rest.rpartition(":")
    return (ip.strip("[]") if separator else "", host, inner, protocol.lower() or "tcp")


def _port_range(text: str, whole: str) -> range:
    first, separator, last = text.partition("-")
    if not first.isdigit() or (separator and not last.isdigit()):
        raise InvalidArgument(f"-p: {whole!r}: {text!r} is not a port")
    low, high = int(first), int(last) if separator else int(first)
    if not 0 < low <= high <= 65535:
        raise InvalidArgument(f"-p: {whole!r}: {text!r} is not a port from 1 to 65535")
    return range(low, high + 1)


def mount(text: str) -> pb.Mount:
    """Return the mount of one -v: ``/host:/path[:ro,rslave,...]``; a relative host path begins with ``.``."""
    source, _, rest = text.partition(":")
    target, _, words = rest.partition(":")
    if not target.startswith("/"):
        raise InvalidArgument(f"-v: {text!r} is not HOST:PATH[:OPTIONS] with an absolute PATH")
    if not source.startswith(("/", ".", "~")):
        raise InvalidArgument(f"-v: {text!r}: named volumes do not exist here; give a path, as in ./{source}:{target}")
    made = pb.Mount(container_path=target, host_path=os.path.abspath(os.path.expanduser(source)))
    for word in filter(None, words.split(",")):
        if word in ("ro", "rw"):
            made.readonly = word == "ro"
        elif word in PROPAGATIONS:
            made.propagation = PROPAGATIONS[word]
        elif word in ("z", "Z"):
            made.selinux_relabel = True
        elif word in ("noexec", "nodev", "nosuid"):
            made.mount_options.append(word)
        else:
            raise InvalidArgument(f"-v: {text!r}: the option {word!r} is not known")
    return made


def make_host_directories(config: pb.ContainerConfig) -> None:
    """As docker does for -v: a host path that is not there becomes a directory."""
    for each in config.mounts:
        try:
            if not os.path.lexists(each.host_path):
                os.makedirs(each.host_path, 0o755)
        except OSError as error:
            raise InvalidArgument(f"-v: {each.host_path}: cannot be made: {error.strerror}") from error


def is_cdi(text: str) -> bool:
    """Whether a device is named as a vendor's description has it, ``vendor.com/gpu=0``, and not by its path."""
    return not text.startswith("/") and "=" in text


def device(text: str) -> pb.Device:
    parts = text.split(":")
    permissions = parts.pop() if len(parts) > 1 and re.fullmatch(r"[rwm]+", parts[-1]) else "rwm"
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise InvalidArgument(f"--device: {text!r} is not HOST[:PATH[:rwm]]")
    return pb.Device(host_path=parts[0], container_path=parts[-1], permissions=permissions)


ADJECTIVES: Final = [
    "amber",
    "brave",
    "calm",
    "deft",
    "eager",
    "fair",
    "glad",
    "hardy",
    "keen",
    "lively",
    "mellow",
    "noble",
    "plucky",
    "quick",
    "ready",
    "steady",
    "tidy",
    "vivid",
    "warm",
]
NOUNS: Final = [
    "anchor",
    "beacon",
    "bollard",
    "bosun",
    "bow",
    "buoy",
    "capstan",
    "compass",
    "cutter",
    "deck",
    "galley",
    "halyard",
    "hull",
    "jib",
    "keel",
    "mast",
    "oar",
    "rudder",
    "sail",
]


def random_name() -> str:
    return f"{secrets.choice(ADJECTIVES)}_{secrets.choice(NOUNS)}_{secrets.token_hex(2)}"
