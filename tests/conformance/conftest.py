"""The fixtures of tests/cri/harness.py for this folder."""

from tests.cri.harness import client, container, orlopd, pod, registry

__all__ = ["client", "container", "orlopd", "pod", "registry"]
