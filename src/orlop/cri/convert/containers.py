"""Containers: configs in and out; lists and statuses out. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orlop.base import limits
from orlop.cri.convert import check
from orlop.cri.convert.images import image_spec_in, image_spec_out
from orlop.cri.convert.resources import resources_in, resources_out
from orlop.cri.convert.security import (
    container_security_in,
    container_security_out,
    enum_out,
    mappings_in,
    mappings_out,
    signal_in,
    signal_out,
)
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb

BIND_OPTIONS: Final = frozenset({"noexec", "nodev", "nosuid"})


def container_config_in(config: pb.ContainerConfig, field: str = "config") -> pod.ContainerConfig:
    """Return the domain form of a container's config. Raises InvalidArgument naming the field."""
    check.refuse(not config.HasField("metadata"), f"{field}.metadata", "is missing")
    check.refuse(config.HasField("windows"), f"{field}.windows", "is not possible on Linux")
    check.refuse(not config.image.image, f"{field}.image.image", "is empty")
    return pod.ContainerConfig(
        metadata=pod.ContainerMetadata(
            name=check.name(config.metadata.name, f"{field}.metadata.name"), attempt=config.metadata.attempt
        ),
        image=image_spec_in(config.image, f"{field}.image"),
        command=check.texts(config.command, f"{field}.command", check.any_text),
        args=check.texts(config.args, f"{field}.args", check.any_text),
        working_dir=check.path(config.working_dir, f"{field}.working_dir"),
        envs=tuple(_env_in(each, f"{field}.envs[{index}]") for index, each in enumerate(config.envs)),
        mounts=tuple(_mount_in(each, f"{field}.mounts[{index}]") for index, each in enumerate(config.mounts)),
        devices=tuple(_device_in(each, f"{field}.devices[{index}]") for index, each in enumerate(config.devices)),
        cdi_devices=check.texts((each.name for each in config.CDI_devices), f"{field}.CDI_devices", check.name),
        labels=check.labels(config.labels, f"{field}.labels", limits.LABEL_BYTES),
        annotations=check.labels(config.annotations, f"{field}.annotations", limits.ANNOTATION_BYTES),
        log_path=check.path(config.log_path, f"{field}.log_path"),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        resources=resources_in(config.linux.resources, f"{field}.linux.resources"),
        security=container_security_in(config.linux.security_context, f"{field}.linux.security_context"),
        stop_signal=signal_in(config.stop_signal, f"{field}.stop_signal"),
    )


def _env_in(env: pb.KeyValue, field: str) -> pod.KeyValue:
    check.refuse(not env.key, f"{field}.key", "is empty")
    check.refuse("=" in env.key, f"{field}.key", f"{env.key!r} contains '='")
    check.refuse(b"\0" in env.value, f"{field}.value", "contains a NUL byte")
    return pod.KeyValue(key=check.any_text(env.key, f"{field}.key"), value=env.value)


def _mount_in(mount: pb.Mount, field: str) -> pod.Mount:
    propagation = check.member(pod.Propagation, mount.propagation, f"{field}.propagation")
    of_image = mount.HasField("image") and bool(mount.image.image)
    check.refuse(not mount.container_path, f"{field}.container_path", "is empty")
    check.refuse(not mount.host_path and not of_image, f"{field}.host_path", "is empty, and no image is given")
    check.refuse(bool(mount.host_path) and of_image, f"{field}.host_path", "is given together with image")
    check.refuse(of_image and not mount.readonly, f"{field}.readonly", "must be true: an image volume can't be written")
    check.refuse(bool(mount.image_sub_path) and not of_image, f"{field}.image_sub_path", "is given without image")
    if mount.recursive_read_only:
        where = f"{field}.recursive_read_only"
        check.refuse(not mount.readonly, where, "needs readonly")
        check.refuse(
            propagation is not pod.Propagation.PRIVATE, where, f"needs PROPAGATION_PRIVATE, not {propagation.name}"
        )
    for index, option in enumerate(mount.mount_options):
        check.refuse(
            option not in BIND_OPTIONS, f"{field}.mount_options[{index}]", f"{option!r} is not noexec, nodev or nosuid"
        )
    return pod.Mount(
        container_path=check.path(mount.container_path, f"{field}.container_path"),
        host_path=check.path(mount.host_path, f"{field}.host_path"),
        readonly=mount.readonly,
        recursive_read_only=mount.recursive_read_only,
        selinux_relabel=mount.selinux_relabel,
        propagation=propagation,
        uid_mappings=mappings_in(mount.uidMappings),
        gid_mappings=mappings_in(mount.gidMappings),
        image=image_spec_in(mount.image, f"{field}.image") if of_image else None,
        image_sub_path=check.path(mount.image_sub_path, f"{field}.image_sub_path"),
        mount_options=tuple(mount.mount_options),
    )


def _device_in(device: pb.Device, field: str) -> pod.Device:
    check.refuse(not device.host_path, f"{field}.host_path", "is empty")
    check.refuse(
        not set(device.permissions) <= set("rwm"), f"{field}.permissions", f"{device.permissions!r} is not of r, w, m"
    )
    return pod.Device(
        container_path=check.path(device.container_path or device.host_path, f"{field}.container_path"),
        host_path=check.path(device.host_path, f"{field}.host_path"),
        permissions=device.permissions or "rwm",
    )


def container_config_out(config: pod.ContainerConfig) -> pb.ContainerConfig:
    """Return a container's config as it was asked for; deprecated fields stand in those that replaced them."""
    return pb.ContainerConfig(
        metadata=container_metadata_out(config.metadata),
        image=image_spec_out(config.image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=each.key, value=each.value) for each in config.envs],
        mounts=[_mount_out(each, {}) for each in config.mounts],
        devices=[
            pb.Device(container_path=each.container_path, host_path=each.host_path, permissions=each.permissions)
            for each in config.devices
        ],
        CDI_devices=[pb.CDIDevice(name=each) for each in config.cdi_devices],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=resources_out(config.resources), security_context=container_security_out(config.security)
        ),
        stop_signal=signal_out(config.stop_signal),
    )


def _shown_image(container: pod.Container) -> pb.ImageSpec:
    """kubelet creates by image id and shows this name to people: prefer what its user wrote over an id."""
    spec = image_spec_out(container.config.image)
    if spec.user_specified_image and spec.image in (container.image_id, container.image_id.removeprefix("sha256:")):
        spec.image = spec.user_specified_image
    return spec


def container_metadata_out(metadata: pod.ContainerMetadata) -> pb.ContainerMetadata:
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)


def container_out(container: pod.Container) -> pb.Container:
    """Return a container as ListContainers shows it."""
    config = container.config
    return pb.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=container_metadata_out(config.metadata),
        image=_shown_image(container),
        image_ref=container.image_id,
        image_id=container.image_id,
        state=enum_out(container.state),
        created_at=container.created_at,
        labels=config.labels,
        annotations=config.annotations,
    )


def container_status_out(container: pod.Container) -> pb.ContainerStatus:
    """Return a container as ContainerStatus shows it."""
    config = container.config
    status = pb.ContainerStatus(
        id=container.id,
        metadata=container_metadata_out(config.metadata),
        state=enum_out(container.state),
        created_at=container.created_at,
        started_at=container.started_at,
        finished_at=container.finished_at,
        exit_code=container.exit_code,
        image=_shown_image(container),
        image_ref=container.image_id,
        image_id=container.image_id,
        reason=container.reason,
        message=container.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=[_mount_out(each, container.mount_digests) for each in config.mounts],
        log_path=container.log_path,
        resources=pb.ContainerResources(linux=resources_out(container.resources)),
        stop_signal=signal_out(container.stop_signal),
    )
    if container.user is not None:
        status.user.linux.CopyFrom(
            pb.LinuxContainerUser(
                uid=container.user.uid,
                gid=container.user.gid,
                supplemental_groups=container.user.supplemental_groups,
            )
        )
    return status


def _mount_out(mount: pod.Mount, digests: Mapping[str, str]) -> pb.Mount:
    made = pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        recursive_read_only=mount.recursive_read_only,
        selinux_relabel=mount.selinux_relabel,
        propagation=enum_out(mount.propagation),
        uidMappings=mappings_out(mount.uid_mappings),
        gidMappings=mappings_out(mount.gid_mappings),
        image_sub_path=mount.image_sub_path,
        mount_options=mount.mount_options,
    )
    if mount.image is not None:
        made.image.CopyFrom(image_spec_out(mount.image))
        made.image.image_ref = digests.get(mount.container_path, mount.image.image_ref)
    return made
