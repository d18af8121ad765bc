"""The built-in validator: rejects adjustments that the administrator's rules forbid, and containers that a required plugin was not asked about.

It has the last word before plugins that validate, and needs no plugin to be there: that is how a missing one is noticed. A pod asks for further
plugins with the annotation required-plugins.noderesource.dev, a YAML list; ``KEY/container.NAME`` is for one container and wins over
``KEY/pod`` and ``KEY``. Pure. Test: tests/unit/nri/test_validator.py.
"""

from __future__ import annotations

from typing import Final

from orlop.base import limits
from orlop.base.errors import InvalidArgument, PermissionDenied
from orlop.nri.rules import Rules
from orlop.specs.nri_gen import nri_pb2 as nri

REQUIRED_PLUGINS: Final = "required-plugins.noderesource.dev"
_TRUTH: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def validate(rules: Rules, request: nri.ValidateContainerAdjustmentRequest) -> None:
    """Raise PermissionDenied that names rule and plugin, InvalidArgument for an annotation that can't be read."""
    if request.container.id in request.owners.owners:
        owners = request.owners.owners[request.container.id]
        _validate_adjustment(rules, request, owners)
    _validate_required(rules, request)


def _validate_adjustment(
    rules: Rules, request: nri.ValidateContainerAdjustmentRequest, owners: nri.FieldOwners
) -> None:
    if rules.reject_oci_hook_adjustment and (owner := owners.simple.get(nri.OciHooks)):
        raise PermissionDenied(f"nri: the rules of this node forbid OCI hooks; plugin {owner} asked for some")
    if owner := owners.simple.get(nri.SeccompPolicy):
        kind = request.container.linux.seccomp_profile.profile_type
        forbidden, word = {
            nri.SecurityProfile.UNCONFINED: (rules.reject_unconfined_seccomp_adjustment, "no"),
            nri.SecurityProfile.RUNTIME_DEFAULT: (rules.reject_runtime_default_seccomp_adjustment, "the default"),
            nri.SecurityProfile.LOCALHOST: (rules.reject_custom_seccomp_adjustment, "a custom"),
        }[kind]
        if forbidden:
            raise PermissionDenied(
                f"nri: the rules of this node forbid to change {word} seccomp policy; plugin {owner} did"
            )
    for rule, field, word in (
        (rules.reject_namespace_adjustment, nri.Namespace, "namespaces"),
        (rules.reject_sysctl_adjustment, nri.Sysctl, "sysctls"),
    ):
        if rule and field in owners.compound:
            who = ", ".join(f"{plugin} ({key})" for key, plugin in sorted(owners.compound[field].owners.items()))
            raise PermissionDenied(f"nri: the rules of this node forbid to change {word}; plugin {who} did")


def _validate_required(rules: Rules, request: nri.ValidateContainerAdjustmentRequest) -> None:
    pod, container = request.pod, request.container.name
    if key := rules.tolerate_missing_plugins_annotation:
        value = _annotation(pod, key, container)
        if value is not None and value not in _TRUTH:
            raise InvalidArgument(f"annotation {key}: {value[:80]!r} is not true or false")
        if value is not None and _TRUTH[value]:
            return
    required = list(rules.required_plugins)
    if (text := _annotation(pod, REQUIRED_PLUGINS, container)) is not None:
        from orlop.specs.strict_yaml import (
            read_yaml,
        )  # few pods have the annotation: the parser is not part of every start

        names = read_yaml(text.encode(), f"annotation {REQUIRED_PLUGINS}", limits.NRI_CONFIG_BYTES)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidArgument(f"annotation {REQUIRED_PLUGINS}: is not a list of names")
        required += names
    there = {name for plugin in request.plugins for name in (plugin.name, f"{plugin.index}-{plugin.name}")}
    if missing := [name for name in dict.fromkeys(required) if name not in there]:
        raise PermissionDenied(f"nri: required plugin {', '.join(missing)} is not there")


def _annotation(pod: nri.PodSandbox, key: str, container: str) -> str | None:
    for each in (f"{key}/container.{container}", f"{key}/pod", key):
        if each in pod.annotations:
            return pod.annotations[each]
    return None
