"""YAML from outside: plain data, no key twice, no aliases, a bounded depth. Imported when a YAML document comes: most nodes have none.

Test: tests/unit/specs/test_cdi.py.
"""

from __future__ import annotations

from typing import Any

import yaml

from orlop.base import limits
from orlop.base.errors import InvalidArgument, ResourceExhausted


class _Loader(yaml.CSafeLoader):
    """Plain data only, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) != len(keys):
            raise yaml.YAMLError(f"a key of {', '.join(sorted(keys))} is given twice")
        return super().construct_mapping(node, deep)


def _check_events(data: bytes) -> None:
    """Refuse what would cost a loader more than its bytes: aliases (a few lines can mean gigabytes), and depth (it recurses)."""
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > limits.JSON_DEPTH:
                raise yaml.YAMLError(f"nested deeper than {limits.JSON_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def read_yaml(data: bytes, name: str, limit: int) -> Any:
    """Return the document. Raises ResourceExhausted (longer than ``limit`` bytes), InvalidArgument that names ``name`` and the reason."""
    if len(data) > limit:
        raise ResourceExhausted(f"{name}: {len(data)} bytes are more than the limit of {limit}")
    try:
        _check_events(data)
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader, made stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name}: not valid YAML: {' '.join(str(error).split())[:200]}") from error
