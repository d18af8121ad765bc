"""The fixtures of tests/cri/harness.py for this folder. ORLOP_CONFORMANCE=all (`make conformance`) adds what is too long for `make test`."""

import os

from tests.cri.harness import client, container, orlopd, pod, registry

__all__ = ["client", "container", "orlopd", "pod", "registry"]

collect_ignore = (
    [] if os.environ.get("ORLOP_CONFORMANCE") == "all" else ["test_critest_handlers.py", "test_critest_orders.py"]
)
