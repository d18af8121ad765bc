"""What the administrator lets plugins do to containers: the settings of the built-in validator. Plain data.

Test: tests/unit/nri/test_validator.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``[nri.default_validator]``, with the keys of containerd's."""

    enable: bool = False
    reject_oci_hook_adjustment: bool = False
    reject_runtime_default_seccomp_adjustment: bool = False
    reject_unconfined_seccomp_adjustment: bool = False
    reject_custom_seccomp_adjustment: bool = False
    reject_namespace_adjustment: bool = False
    reject_sysctl_adjustment: bool = False
    required_plugins: tuple[str, ...] = ()
    """``NAME`` or ``NN-NAME``; each must have been asked about every container, of static pods too."""
    tolerate_missing_plugins_annotation: str = ""
    """A pod with this annotation, set to true, does without the required plugins."""
