"""Protobuf to domain types and back: nothing is lost, what is wrong is named by its field."""

import json
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.cri import convert
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb

words = st.text(st.characters(blacklist_characters="\0\r\n", blacklist_categories=("Cs",)), max_size=20)
names = words.filter(bool)
maps = st.dictionaries(words, words, max_size=4)
amounts = st.integers(0, 2**62)

resources = st.builds(
    pb.LinuxContainerResources,
    cpu_period=amounts,
    cpu_quota=st.integers(-1, 2**62),
    cpu_shares=amounts,
    memory_limit_in_bytes=amounts,
    memory_swap_limit_in_bytes=st.integers(-1, 2**62),
    oom_score_adj=st.integers(-1000, 1000),
    cpuset_cpus=words,
    cpuset_mems=words,
    hugepage_limits=st.lists(
        st.builds(pb.HugepageLimit, page_size=st.sampled_from(["2MB", "1GB"]), limit=st.integers(0, 2**64 - 1)),
        max_size=3,
    ),
    unified=st.dictionaries(st.sampled_from(["memory.high", "pids.max"]), words, max_size=2),
)
images = st.builds(
    pb.ImageSpec, image=names, annotations=maps, user_specified_image=words, runtime_handler=words, image_ref=words
)
mounts = st.builds(
    pb.Mount,
    container_path=names,
    host_path=names,
    readonly=st.booleans(),
    propagation=st.sampled_from([0, 1, 2]),
    selinux_relabel=st.booleans(),
    mount_options=st.lists(st.sampled_from(["noexec", "nodev", "nosuid"]), max_size=3),
    uidMappings=st.lists(
        st.builds(
            pb.IDMapping, host_id=st.integers(0, 2**32 - 1), container_id=st.integers(0, 9), length=st.integers(0, 9)
        ),
        max_size=2,
    ),
)
containers = st.builds(
    pb.ContainerConfig,
    metadata=st.builds(pb.ContainerMetadata, name=names, attempt=st.integers(0, 2**32 - 1)),
    image=images,
    command=st.lists(words, max_size=3),
    args=st.lists(words, max_size=3),
    envs=st.lists(
        st.builds(
            pb.KeyValue,
            key=names.filter(lambda text: "=" not in text),
            value=st.binary(max_size=9).map(lambda b: b.replace(b"\0", b"")),
        ),
        max_size=3,
    ),
    mounts=st.lists(mounts, max_size=3),
    labels=maps,
    annotations=maps,
    tty=st.booleans(),
    stdin=st.booleans(),
    linux=st.builds(pb.LinuxContainerConfig, resources=resources),
)
sandboxes = st.builds(
    pb.PodSandboxConfig,
    metadata=st.builds(
        pb.PodSandboxMetadata, name=names, uid=words, namespace=words, attempt=st.integers(0, 2**32 - 1)
    ),
    labels=maps,
    annotations=maps,
    linux=st.builds(
        pb.LinuxPodSandboxConfig,
        security_context=st.builds(
            pb.LinuxSandboxSecurityContext,
            namespace_options=st.builds(
                pb.NamespaceOption,
                network=st.sampled_from([0, 2]),
                pid=st.sampled_from([0, 1, 2]),
                ipc=st.sampled_from([0, 2]),
            ),
        ),
        resources=resources,
    ),
)


@settings(max_examples=100)
@given(resources)
def test_resources_round_trip(given_):
    assert convert.resources_out(convert.resources_in(given_, "linux")) == given_


@settings(max_examples=60)
@given(containers)
def test_containers_keep_what_was_asked(config):
    made = convert.container_config_in(config)
    container = pod.Container(
        id="c",
        sandbox_id="s",
        config=made,
        state=pod.ContainerState.RUNNING,
        created_at=1,
        image_id="sha256:1",
        resources=made.resources,
    )
    status = convert.container_status_out(container)
    assert status.labels == config.labels
    assert status.annotations == config.annotations
    assert status.metadata == config.metadata
    assert list(status.mounts) == list(config.mounts)
    assert status.resources.linux == config.linux.resources
    assert [(each.key, each.value) for each in made.envs] == [(each.key, each.value) for each in config.envs]
    assert status.image_ref == status.image_id == "sha256:1"
    listed = convert.container_out(container)
    assert (listed.id, listed.pod_sandbox_id, listed.labels) == ("c", "s", config.labels)


@settings(max_examples=60)
@given(sandboxes)
def test_sandboxes_keep_what_was_asked(config):
    made = convert.sandbox_config_in(config)
    status = convert.sandbox_status_out(
        pod.Sandbox(id="s", config=made, state=pod.SandboxState.READY, created_at=1, ips=("10.1.1.1", "fd00::1"))
    )
    assert status.metadata == config.metadata
    assert status.labels == config.labels
    assert status.annotations == config.annotations
    assert status.linux.namespaces.options == config.linux.security_context.namespace_options
    assert (status.network.ip, status.network.additional_ips[0].ip) == ("10.1.1.1", "fd00::1")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_converted_or_refused(data):
    for kind, read in (
        (pb.ContainerConfig, convert.container_config_in),
        (pb.PodSandboxConfig, convert.sandbox_config_in),
    ):
        try:
            message = kind.FromString(data)
        except Exception:
            continue
        try:
            read(message)
        except InvalidArgument as error:
            assert str(error).startswith("config")


def container(**fields):
    return pb.ContainerConfig(
        **{"metadata": pb.ContainerMetadata(name="c"), "image": pb.ImageSpec(image="i"), **fields}
    )


def secured(**fields):
    return container(linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**fields)))


def limited(**fields):
    return container(linux=pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(**fields)))


def mounted(**fields):
    return container(mounts=[pb.Mount(**{"container_path": "/c", "host_path": "/h", **fields})])


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (pb.ContainerConfig(image=pb.ImageSpec(image="i")), "config.metadata: is missing"),
        (container(metadata=pb.ContainerMetadata()), "config.metadata.name: is empty"),
        (container(metadata=pb.ContainerMetadata(name="a\nb")), "config.metadata.name: contains a line break"),
        (
            container(metadata=pb.ContainerMetadata(name="x" * (limits.NAME_BYTES + 1))),
            "config.metadata.name: is longer",
        ),
        (container(image=pb.ImageSpec()), "config.image.image: is empty"),
        (container(args=["ok", "a\0b"]), "config.args[1]: contains a NUL"),
        (container(windows=pb.WindowsContainerConfig()), "config.windows: "),
        (container(envs=[pb.KeyValue(key="")]), "config.envs[0].key: is empty"),
        (container(envs=[pb.KeyValue(key="A=B")]), "config.envs[0].key: "),
        (container(envs=[pb.KeyValue(key="A", value=b"\0")]), "config.envs[0].value: contains a NUL"),
        (container(annotations={"a": "x" * (limits.ANNOTATION_BYTES + 1)}), "config.annotations: are larger"),
        (container(labels={"a": "x" * (limits.LABEL_BYTES + 1)}), "config.labels: are larger"),
        (container(stop_signal=99), "config.stop_signal: 99"),
        (container(devices=[pb.Device(host_path="/d", permissions="rx")]), "config.devices[0].permissions: "),
        (mounted(host_path=""), "config.mounts[0].host_path: is empty"),
        (mounted(container_path=""), "config.mounts[0].container_path: is empty"),
        (mounted(propagation=7), "config.mounts[0].propagation: 7"),
        (mounted(recursive_read_only=True), "config.mounts[0].recursive_read_only: needs readonly"),
        (
            mounted(recursive_read_only=True, readonly=True, propagation=1),
            "config.mounts[0].recursive_read_only: needs PROPAGATION_PRIVATE",
        ),
        (mounted(mount_options=["suid"]), "config.mounts[0].mount_options[0]: "),
        (mounted(image=pb.ImageSpec(image="i")), "config.mounts[0].host_path: is given together with image"),
        (mounted(host_path="", image=pb.ImageSpec(image="i")), "config.mounts[0].readonly: must be true"),
        (limited(unified={"../x": "1"}), "config.linux.resources.unified: "),
        (limited(oom_score_adj=1001), "config.linux.resources.oom_score_adj: "),
        (limited(memory_limit_in_bytes=-2), "config.linux.resources.memory_limit_in_bytes: "),
        (secured(run_as_group=pb.Int64Value(value=1)), "config.linux.security_context.run_as_group: is given without"),
        (secured(run_as_user=pb.Int64Value(value=-1)), "config.linux.security_context.run_as_user: -1"),
        (secured(run_as_user=pb.Int64Value(value=2**32 - 1)), "config.linux.security_context.run_as_user: "),
        (
            secured(run_as_user=pb.Int64Value(value=1), run_as_username="x"),
            "config.linux.security_context.run_as_username: ",
        ),
        (secured(supplemental_groups=[1, -5]), "config.linux.security_context.supplemental_groups[1]: -5"),
        (
            secured(seccomp=pb.SecurityProfile(profile_type=2)),
            "config.linux.security_context.seccomp.localhost_ref: is empty",
        ),
        (secured(seccomp_profile_path="what"), "config.linux.security_context.seccomp_profile_path: 'what'"),
        (
            secured(namespace_options=pb.NamespaceOption(pid=3)),
            "config.linux.security_context.namespace_options.target_id: is empty",
        ),
        (
            secured(namespace_options=pb.NamespaceOption(userns_options=pb.UserNamespace(mode=1))),
            "config.linux.security_context.namespace_options.userns_options.mode: CONTAINER",
        ),
    ],
)
def test_what_is_wrong_in_a_container_is_named(config, field):
    with pytest.raises(InvalidArgument) as caught:
        convert.container_config_in(config)
    assert str(caught.value).startswith(field)


def sandbox(**fields):
    return pb.PodSandboxConfig(**{"metadata": pb.PodSandboxMetadata(name="p"), **fields})


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (pb.PodSandboxConfig(), "config.metadata: is missing"),
        (sandbox(hostname="x" * 65), "config.hostname: is longer than 64"),
        (sandbox(hostname="a\nb"), "config.hostname: contains a line break"),
        (sandbox(dns_config=pb.DNSConfig(servers=["1.1.1.1\nsearch evil"])), "config.dns_config.servers[0]: "),
        (
            sandbox(port_mappings=[pb.PortMapping(container_port=70000)]),
            "config.port_mappings[0].container_port: 70000",
        ),
        (sandbox(port_mappings=[pb.PortMapping(protocol=3)]), "config.port_mappings[0].protocol: 3"),
        (sandbox(port_mappings=[pb.PortMapping(host_ip="x")]), "config.port_mappings[0].host_ip: 'x'"),
        (sandbox(linux=pb.LinuxPodSandboxConfig(sysctls={"": "1"})), "config.linux.sysctls: is empty"),
        (sandbox(linux=pb.LinuxPodSandboxConfig(cgroup_parent="/a\0")), "config.linux.cgroup_parent: contains a NUL"),
    ],
)
def test_what_is_wrong_in_a_sandbox_is_named(config, field):
    with pytest.raises(InvalidArgument) as caught:
        convert.sandbox_config_in(config)
    assert str(caught.value).startswith(field)


def test_new_profile_fields_win_over_deprecated_ones():
    context = convert.container_config_in(
        secured(
            seccomp=pb.SecurityProfile(profile_type=1),
            seccomp_profile_path="localhost//old.json",
            apparmor_profile="localhost/old",
        )
    ).security
    assert context.seccomp == pod.SecurityProfile(profile_type=pod.ProfileType.UNCONFINED)
    assert context.apparmor == pod.SecurityProfile(profile_type=pod.ProfileType.LOCALHOST, localhost_ref="old")
    assert convert.container_config_in(secured()).security.seccomp is None
    old = convert.container_config_in(secured(seccomp_profile_path="localhost//p.json")).security.seccomp
    assert old == pod.SecurityProfile(profile_type=pod.ProfileType.LOCALHOST, localhost_ref="/p.json")


def test_signals_both_ways():
    assert convert.signal_in(pb.SIGNAL_SIGTERM, "f") == signal.SIGTERM
    assert convert.signal_in(pb.SIGNAL_SIGRTMIN, "f") == 34
    assert convert.signal_in(pb.SIGNAL_SIGRTMINPLUS15, "f") == 49
    assert convert.signal_in(pb.SIGNAL_SIGRTMAXMINUS14, "f") == 50
    assert convert.signal_in(pb.SIGNAL_SIGRTMAX, "f") == 64
    assert convert.signal_in(pb.SIGNAL_RUNTIME_DEFAULT, "f") == 0
    for value in pb.Signal.values():
        number = convert.signal_in(value, "f")
        assert convert.signal_in(convert.signal_out(number), "f") == number
    assert convert.signal_out(6) == pb.SIGNAL_SIGABRT
    assert convert.signal_out(17) == pb.SIGNAL_SIGCHLD


def test_image_names_for_people():
    config = convert.container_config_in(
        container(image=pb.ImageSpec(image="sha256:aa", user_specified_image="nginx:1"))
    )
    made = pod.Container(
        id="c",
        sandbox_id="s",
        config=config,
        state=pod.ContainerState.EXITED,
        created_at=1,
        image_id="sha256:aa",
        exit_code=137,
        reason="OOMKilled",
    )
    status = convert.container_status_out(made)
    assert (status.image.image, status.exit_code, status.reason) == ("nginx:1", 137, "OOMKilled")


def test_image_mounts_show_their_digest():
    config = convert.container_config_in(
        mounted(host_path="", readonly=True, image=pb.ImageSpec(image="vol:1"), image_sub_path="a")
    )
    made = pod.Container(
        id="c",
        sandbox_id="s",
        config=config,
        state=pod.ContainerState.RUNNING,
        created_at=1,
        mount_digests={"/c": "sha256:dd"},
    )
    shown = convert.container_status_out(made).mounts[0]
    assert (shown.image.image, shown.image.image_ref, shown.image_sub_path) == ("vol:1", "sha256:dd", "a")


def test_sandbox_status_has_what_evented_pleg_wants():
    config = convert.sandbox_config_in(sandbox())
    made = pod.Sandbox(id="s", config=config, state=pod.SandboxState.READY, created_at=1, info={"pid": 3})
    response = convert.sandbox_status_response(made, (), True)
    assert response.timestamp > 0
    assert json.loads(response.info["info"])["pid"] == 3
    assert not convert.sandbox_status_response(made, (), False).info


def test_stats():
    config = convert.container_config_in(container(labels={"a": "b"}))
    one = pod.Container(id="c", sandbox_id="s", config=config, state=pod.ContainerState.RUNNING, created_at=1)
    stats = pod.ContainerStats(
        container=one,
        cpu=pod.CpuStats(timestamp=5, usage_core_nano_seconds=7),
        memory=pod.MemoryStats(timestamp=5, working_set=9, psi=pod.Psi(some=pod.PsiData(total=1))),
        writable_layer=pod.FilesystemStats(timestamp=5, mountpoint="/m", used_bytes=1, inodes_used=2),
    )
    shown = convert.container_stats_out(stats)
    assert (shown.cpu.usage_core_nano_seconds.value, shown.memory.working_set_bytes.value) == (7, 9)
    assert not shown.cpu.HasField("usage_nano_cores")
    assert not shown.memory.HasField("available_bytes")
    assert shown.memory.psi.Some.Total == 1
    assert not shown.HasField("swap")
    box = pod.Sandbox(id="s", config=convert.sandbox_config_in(sandbox()), state=pod.SandboxState.READY, created_at=1)
    whole = convert.sandbox_stats_out(
        pod.SandboxStats(
            sandbox=box,
            network_timestamp=6,
            interfaces=(pod.InterfaceStats(name="eth0", rx_bytes=1), pod.InterfaceStats(name="eth1")),
            process_count=4,
            containers=(stats,),
        )
    )
    assert whole.linux.network.default_interface.name == "eth0"
    assert [each.name for each in whole.linux.network.interfaces] == ["eth1"]
    assert whole.linux.process.process_count.value == 4
    assert whole.linux.containers[0].attributes.labels == {"a": "b"}


def test_events():
    config = convert.sandbox_config_in(sandbox())
    box = pod.Sandbox(id="s", config=config, state=pod.SandboxState.READY, created_at=1)
    shown = convert.event_out(
        pod.Event(sequence=1, type=pod.EventType.STOPPED, container_id="c", created_at=2, sandbox=box)
    )
    assert shown.container_event_type == pb.CONTAINER_STOPPED_EVENT
    assert shown.pod_sandbox_status.id == "s"
