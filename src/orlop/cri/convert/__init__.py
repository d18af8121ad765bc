"""Protobuf to the domain types of specs/pod.py and back, one file a noun; the only place that knows both.

The way in checks what any reader of the request could check without knowing the node: required fields, ranges, enum numbers, NUL
and newlines, sizes, fields that exclude each other. What fails raises InvalidArgument that begins with the path of the field. What
needs facts of the node (images, namespaces, the kernel) is for services/. The way out never fails. Nothing here does I/O.
Test: tests/unit/cri/test_convert.py.
"""

from orlop.cri.convert.containers import container_config_in, container_config_out, container_out, container_status_out
from orlop.cri.convert.images import image_spec_in
from orlop.cri.convert.info import info_out, json_text, message_info
from orlop.cri.convert.resources import resources_in, resources_out
from orlop.cri.convert.sandboxes import (
    event_out,
    sandbox_config_in,
    sandbox_config_out,
    sandbox_out,
    sandbox_status_out,
    sandbox_status_response,
)
from orlop.cri.convert.security import signal_in, signal_out
from orlop.cri.convert.stats import container_stats_out, filesystem_out, sandbox_stats_out

__all__ = [
    "container_config_in",
    "container_config_out",
    "container_out",
    "container_stats_out",
    "container_status_out",
    "event_out",
    "filesystem_out",
    "image_spec_in",
    "info_out",
    "json_text",
    "message_info",
    "resources_in",
    "resources_out",
    "sandbox_config_in",
    "sandbox_config_out",
    "sandbox_out",
    "sandbox_stats_out",
    "sandbox_status_out",
    "sandbox_status_response",
    "signal_in",
    "signal_out",
]
