"""critest's streaming specs once more, over WebSockets: v5 for exec and attach, SPDY in a tunnel for port-forward."""

from __future__ import annotations

import pytest

from tests.conformance.test_critest import run_critest

pytestmark = pytest.mark.cri


FLAGS = ("-websocket-exec", "-websocket-attach", "-websocket-portforward")


@pytest.mark.timeout(180)
def test_streaming_specs_over_websockets(orlopd, tmp_path):
    specs = run_critest(orlopd, tmp_path, r"-ginkgo.focus=\[k8s\.io\] Streaming ", *FLAGS)
    ran = [each for each in specs if each.state != "skipped"]
    wrong = [f"{each.state}: {each.name}: {each.message[:600]}" for each in ran if each.state != "passed"]
    assert len(ran) == 5
    assert not wrong, "\n".join(wrong)
