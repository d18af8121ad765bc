"""What a verbose status shows of a config is the config: read in, written out and read in again it is the same."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cri.test_convert import amounts, containers, resources, sandboxes, words

from orlop.cri import convert
from orlop.specs.cri_gen import api_pb2 as pb

ids = st.integers(0, 2**32 - 2)
maybe_id = st.none() | st.builds(pb.Int64Value, value=ids)
texts = st.lists(words, max_size=3)
paths = st.lists(words.map(lambda text: f"/{text}"), max_size=3)
profiles = st.none() | st.builds(
    pb.SecurityProfile, profile_type=st.sampled_from([0, 1, 2]), localhost_ref=words.map(lambda text: f"/{text}")
)
selinux = st.none() | st.builds(pb.SELinuxOption, user=words, role=words, type=words, level=words)
mappings = st.lists(
    st.builds(pb.IDMapping, host_id=ids, container_id=ids, length=st.integers(1, 65536)), min_size=1, max_size=1
)
namespaces = st.builds(
    pb.NamespaceOption,
    network=st.sampled_from([0, 2]),
    pid=st.sampled_from([0, 1, 2]),
    ipc=st.sampled_from([0, 2]),
    userns_options=st.none() | st.builds(pb.UserNamespace, mode=st.sampled_from([0, 2]), uids=mappings, gids=mappings),
)
common = {
    "namespace_options": namespaces,
    "selinux_options": selinux,
    "run_as_user": st.builds(pb.Int64Value, value=ids),
    "run_as_group": maybe_id,
    "readonly_rootfs": st.booleans(),
    "supplemental_groups": st.lists(ids, max_size=3),
    "supplemental_groups_policy": st.sampled_from([0, 1]),
    "privileged": st.booleans(),
    "seccomp": profiles,
    "apparmor": profiles,
}
container_security = st.builds(
    pb.LinuxContainerSecurityContext,
    **common,
    no_new_privs=st.booleans(),
    masked_paths=paths,
    readonly_paths=paths,
    capabilities=st.builds(
        pb.Capability, add_capabilities=texts, drop_capabilities=texts, add_ambient_capabilities=texts
    ),
)
sandbox_security = st.builds(pb.LinuxSandboxSecurityContext, **common)
devices = st.lists(
    st.builds(pb.Device, container_path=words, host_path=words.map(lambda text: f"/{text}"), permissions=st.just("rw")),
    max_size=2,
)
ports = st.lists(
    st.builds(
        pb.PortMapping,
        protocol=st.sampled_from([0, 1, 2]),
        container_port=st.integers(0, 65535),
        host_port=st.integers(0, 65535),
        host_ip=st.sampled_from(["", "127.0.0.1", "::1"]),
    ),
    max_size=2,
)


@settings(max_examples=60)
@given(containers, container_security, devices, st.sampled_from(pb.Signal.values()))
def test_a_containers_config(config, security, device_list, signal):
    config.linux.security_context.CopyFrom(security)
    config.devices.extend(device_list)
    # The second name of a number comes back as the first.
    config.stop_signal = convert.signal_out(convert.signal_in(signal, "signal"))
    domain = convert.container_config_in(config)
    shown = convert.container_config_out(domain)
    assert convert.container_config_in(shown) == domain
    assert shown.stop_signal == config.stop_signal
    json.dumps(convert.message_info(shown))


@settings(max_examples=60)
@given(sandboxes, sandbox_security, ports, st.none() | resources, amounts)
def test_a_sandboxs_config(config, security, port_list, overhead, shares):
    config.linux.security_context.CopyFrom(security)
    config.port_mappings.extend(port_list)
    if overhead is not None:
        config.linux.overhead.CopyFrom(overhead)
    config.linux.resources.cpu_shares = shares
    config.dns_config.servers.append("10.0.0.1")
    domain = convert.sandbox_config_in(config)
    shown = convert.sandbox_config_out(domain)
    assert convert.sandbox_config_in(shown) == domain
    json.dumps(convert.message_info(shown))
