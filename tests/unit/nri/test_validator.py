"""The built-in validator: each rule, the required plugins, the annotations of pods."""

from __future__ import annotations

import pytest

from orlop.base.errors import InvalidArgument, PermissionDenied
from orlop.base.supervise import Supervisor
from orlop.nri.merge import CreateMerge
from orlop.nri.plugins import Plugins
from orlop.nri.rules import Rules
from orlop.nri.validator import REQUIRED_PLUGINS, validate
from orlop.specs.nri_gen import nri_pb2 as nri

PROFILES = nri.SecurityProfile


def request(
    profile: int = PROFILES.UNCONFINED, annotations: dict[str, str] | None = None, **adjust: object
) -> nri.ValidateContainerAdjustmentRequest:
    container = nri.Container(id="c", name="web")
    container.linux.seccomp_profile.profile_type = profile
    merge = CreateMerge(nri.Container(id="c"))
    merge.add(nri.CreateContainerResponse(adjust=nri.ContainerAdjustment(**adjust)), "10-bad")
    return nri.ValidateContainerAdjustmentRequest(
        pod=nri.PodSandbox(annotations=annotations or {}),
        container=container,
        adjust=merge.adjust,
        owners=merge.owning_plugins(),
        plugins=[nri.PluginInstance(name="bad", index="10")],
    )


HOOKS = {"hooks": nri.Hooks(poststop=[nri.Hook(path="/h")])}
SECCOMP = {"linux": nri.LinuxContainerAdjustment(seccomp_policy=nri.LinuxSeccomp(default_action="SCMP_ACT_ALLOW"))}
NAMESPACES = {"linux": nri.LinuxContainerAdjustment(namespaces=[nri.LinuxNamespace(type="-pid")])}
SYSCTLS = {"linux": nri.LinuxContainerAdjustment(sysctl={"net.x": "1"})}

FORBIDDEN = [
    ("reject_oci_hook_adjustment", request(**HOOKS), "OCI hooks; plugin 10-bad"),
    (
        "reject_unconfined_seccomp_adjustment",
        request(PROFILES.UNCONFINED, **SECCOMP),
        "no seccomp policy; plugin 10-bad",
    ),
    (
        "reject_runtime_default_seccomp_adjustment",
        request(PROFILES.RUNTIME_DEFAULT, **SECCOMP),
        "the default seccomp policy; plugin 10-bad",
    ),
    ("reject_custom_seccomp_adjustment", request(PROFILES.LOCALHOST, **SECCOMP), "a custom seccomp policy"),
    ("reject_namespace_adjustment", request(**NAMESPACES), r"namespaces; plugin 10-bad \(pid\)"),
    ("reject_sysctl_adjustment", request(**SYSCTLS), r"sysctls; plugin 10-bad \(net.x\)"),
]


@pytest.mark.parametrize(("rule", "wish", "words"), FORBIDDEN, ids=[rule for rule, _, _ in FORBIDDEN])
def test_each_rule_forbids_its_own_and_nothing_else(rule, wish, words):
    with pytest.raises(PermissionDenied, match=words):
        validate(Rules(**{rule: True}), wish)
    others = {name: True for name, _, _ in FORBIDDEN if name != rule}
    validate(Rules(**others), wish)
    validate(Rules(**{name: True for name, _, _ in FORBIDDEN}), request(args=["sh"]))


@pytest.mark.parametrize("name", ["bad", "10-bad"])
def test_a_required_plugin_that_was_asked(name):
    validate(Rules(required_plugins=(name,)), request())


@pytest.mark.parametrize("name", ["net", "20-bad"])
def test_a_required_plugin_that_was_not(name):
    with pytest.raises(PermissionDenied, match=f"required plugin {name} is not there"):
        validate(Rules(required_plugins=("bad", name)), request())


def test_pods_ask_for_more_and_for_one_container():
    for key in (REQUIRED_PLUGINS, f"{REQUIRED_PLUGINS}/pod", f"{REQUIRED_PLUGINS}/container.web"):
        with pytest.raises(PermissionDenied, match="required plugin net, log is not there"):
            validate(Rules(), request(annotations={key: "[net, log]"}))
    validate(Rules(), request(annotations={REQUIRED_PLUGINS: "[net]", f"{REQUIRED_PLUGINS}/container.web": "[]"}))
    validate(Rules(), request(annotations={f"{REQUIRED_PLUGINS}/container.other": "[net]"}))


def test_pods_may_be_tolerant_when_the_rules_say_how():
    rules = Rules(required_plugins=("net",), tolerate_missing_plugins_annotation="k")
    validate(rules, request(annotations={"k": "true"}))
    with pytest.raises(PermissionDenied):
        validate(rules, request(annotations={"k": "false"}))
    with pytest.raises(InvalidArgument, match="'maybe' is not true or false"):
        validate(rules, request(annotations={"k": "maybe"}))
    with pytest.raises(PermissionDenied):
        validate(Rules(required_plugins=("net",)), request(annotations={"": "true"}))


@pytest.mark.parametrize("text", ["net", "{a: b}", "[1]", "[", "&a [*a]"])
def test_an_annotation_that_is_no_list_of_names(text):
    with pytest.raises(InvalidArgument, match=REQUIRED_PLUGINS):
        validate(Rules(), request(annotations={REQUIRED_PLUGINS: text}))


async def test_a_missing_plugin_is_noticed_when_no_plugin_is_there():
    supervisor = Supervisor("test")
    plugins = Plugins(supervisor, rules=Rules(enable=True, required_plugins=("net",)))
    assert plugins.asks
    with pytest.raises(PermissionDenied, match="required plugin net"):
        await plugins.create(nri.PodSandbox(id="p"), nri.Container(id="c"))
    assert not Plugins(supervisor, rules=Rules(required_plugins=("net",))).asks, "rules that are not enabled"
    await supervisor.close()
