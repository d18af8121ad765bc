"""From CRI's ContainerConfig and the image's defaults to an OCI runtime spec: pure.

Owns the whole and the namespaces. Its parts, each with its defaults and the precedence between pod, container and image, are
spec_process, spec_security, spec_mounts and spec_resources; what they are built from beside CRI is in spec_inputs. What must be opened,
made or looked up is an argument or is handed back in ``BuiltSpec``. Never compiles a plan, never touches a file. The defaults are those
that images and kubelet expect from containerd. Test: tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

from typing import Final

import msgspec

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci.compile import INHERITED, OF_POD_INIT, Facts, OfContainer, Whereabouts
from orlop.oci.ops import Fd
from orlop.security.profiles import Profile
from orlop.services.containers.spec_inputs import NO_FILES, Host, ImageDefaults, PodFiles
from orlop.services.containers.spec_mounts import build_mounts
from orlop.services.containers.spec_process import build_process, stop_signal
from orlop.services.containers.spec_resources import DEFAULT_DEVICE_RULES, build_resources, device_rule, merge_devices
from orlop.services.containers.user import ResolvedUser
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig, ContainerSecurity, NamespaceMode, SandboxConfig


class BuiltSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A spec, and what its caller must provide for it."""

    spec: oci.RuntimeSpec
    namespaces: dict[str, Whereabouts]
    monitor_namespaces: frozenset[str]
    trees: dict[str, Fd]
    """Mount point -> label of the detached mount to be passed: SHM_FD (a clone of the pod's shm), ``image.<mount point>``."""
    host_directories: tuple[str, ...]
    """Sources of bind mounts: one that does not exist is to be made as a directory (0755)."""
    stop_signal: int

    def facts(self, container_id: str) -> Facts:
        """Return the facts that follow from the config; the caller replaces those of cgroup, seccomp and kernel."""
        return Facts(
            container_id=container_id,
            namespaces=self.namespaces,
            monitor_namespaces=self.monitor_namespaces,
            trees=self.trees,
        )


def build_spec(
    config: ContainerConfig,
    sandbox: SandboxConfig,
    image: ImageDefaults,
    *,
    user: ResolvedUser,
    host: Host,
    files: PodFiles = NO_FILES,
    sandbox_id: str = "",
    rootfs: str = "rootfs",
    cgroups_path: str = "",
    monitor_pid: int = 0,
    init_pid: int = 0,
    target_pid: int = 0,
    devices: tuple[oci.Device, ...] = (),
    profile: Profile | None = None,
    ulimits: tuple[oci.Rlimit, ...] = (),
) -> BuiltSpec:
    """Return the container's runtime spec.

    ``devices`` are the nodes of ``config.devices`` (devices.py reads them), ``profile`` is choose_seccomp's. The pids only make the
    namespace paths of the document true for its readers; the plan enters namespaces by fd. Raises InvalidArgument that names the field,
    FailedPrecondition when the host lacks what is asked, Unimplemented.
    """
    subject = f"container {config.metadata.name}"
    security = config.security
    if security.privileged and not sandbox.security.privileged:
        raise InvalidArgument(f"{subject}: privileged: its sandbox is not privileged")
    namespaces, where, unshared = _namespaces(
        security, sandbox, host, subject=subject, pids=(monitor_pid, init_pid, target_pid)
    )
    host_ipc = sandbox.security.namespaces.ipc is NamespaceMode.NODE
    mounts, trees, directories, propagation = build_mounts(config, host, files, subject=subject, host_ipc=host_ipc)
    process = build_process(config, sandbox, image, user=user, host=host, ulimits=ulimits, subject=subject)
    if security.privileged:
        nodes = merge_devices(host.devices, devices)
        rules: tuple[oci.DeviceCgroup, ...] = (oci.DeviceCgroup(allow=True, access="rwm"),)
    else:
        nodes = devices
        rules = DEFAULT_DEVICE_RULES
        if devices:
            rules += tuple(device_rule(config, index, device) for index, device in enumerate(devices))
    spec = oci.RuntimeSpec(
        oci_version=oci.VERSION,
        process=process,
        root=oci.Root(path=rootfs, readonly=security.readonly_rootfs),
        mounts=mounts,
        annotations=_annotations(config, sandbox, sandbox_id),
        linux=oci.Linux(
            resources=build_resources(config.resources, host, rules, subject),
            cgroups_path=cgroups_path,
            namespaces=namespaces,
            devices=nodes,
            seccomp=profile.seccomp if profile is not None else None,
            rootfs_propagation=propagation,
            # An empty list means none, as in containerd: kubelet always says which paths it wants hidden.
            masked_paths=() if security.privileged else security.masked_paths,
            readonly_paths=() if security.privileged else security.readonly_paths,
        ),
    )
    return BuiltSpec(
        spec=spec,
        namespaces=where,
        monitor_namespaces=unshared,
        trees=trees,
        host_directories=directories,
        stop_signal=stop_signal(config, image),
    )


# ---- namespaces

_Namespaces = tuple[tuple[oci.Namespace, ...], dict[str, Whereabouts], frozenset[str]]
_NEW_MOUNT: Final = oci.Namespace(type="mount")
_NEW_PID: Final = oci.Namespace(type="pid")
_NEW_CGROUP: Final = oci.Namespace(type="cgroup")


def _namespaces(
    security: ContainerSecurity, sandbox: SandboxConfig, host: Host, *, subject: str, pids: tuple[int, int, int]
) -> _Namespaces:
    """The pod decides about network, IPC and UTS; the container about PID, within what the pod allows."""
    options, pod_options = security.namespaces, sandbox.security.namespaces
    if options.userns is not None and options.userns.mode is not NamespaceMode.NODE:
        raise Unimplemented(f"{subject}: namespace_options.userns_options: user namespaces are not implemented")
    monitor, init, target = pids
    listed = [_NEW_MOUNT]
    where: dict[str, Whereabouts] = {}
    if pod_options.network is not NamespaceMode.NODE:
        # A pod with its own network has its own host name; on the host's network it has the host's.
        for kind, file in (("network", "net"), ("uts", "uts")):
            listed.append(oci.Namespace(type=kind, path=f"/proc/{monitor}/ns/{file}"))
            where[kind] = INHERITED
    if pod_options.ipc is not NamespaceMode.NODE:
        listed.append(oci.Namespace(type="ipc", path=f"/proc/{monitor}/ns/ipc"))
        where["ipc"] = INHERITED
    mode = options.pid
    if mode is NamespaceMode.NODE and pod_options.pid is not NamespaceMode.NODE:
        raise InvalidArgument(
            f"{subject}: namespace_options.pid: NODE, but its sandbox is not in the node's PID namespace"
        )
    if mode is NamespaceMode.POD:
        mode = pod_options.pid
    if mode is NamespaceMode.CONTAINER:
        listed.append(_NEW_PID)
    elif mode is NamespaceMode.POD:
        listed.append(oci.Namespace(type="pid", path=f"/proc/{init}/ns/pid"))
        where["pid"] = OF_POD_INIT
    elif mode is NamespaceMode.TARGET:
        if not options.target_id:
            raise InvalidArgument(f"{subject}: namespace_options.target_id: empty")
        listed.append(oci.Namespace(type="pid", path=f"/proc/{target}/ns/pid"))
        where["pid"] = OfContainer(options.target_id)
    if host.cgroup_v2 and not security.privileged:
        # Not on v1, as runc and containerd have it: there /sys/fs/cgroup is built from the container's own directories.
        listed.append(_NEW_CGROUP)
    return tuple(listed), where, frozenset(kind for kind in ("network", "uts", "ipc") if kind in where)


# ---- annotations


def _annotations(config: ContainerConfig, sandbox: SandboxConfig, sandbox_id: str) -> dict[str, str]:
    """What runtimes of other makers (kata, gVisor) read to know their place; never the labels of an image (CVE-2026-53488)."""
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": config.metadata.name,
        "io.kubernetes.cri.image-name": config.image.user_specified_image or config.image.image,
        "io.kubernetes.cri.sandbox-id": sandbox_id,
        "io.kubernetes.cri.sandbox-name": sandbox.metadata.name,
        "io.kubernetes.cri.sandbox-namespace": sandbox.metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": sandbox.metadata.uid,
    }
