"""critest with crun and runc as runtime handlers: a spec that the built-in handler passes is passed by them, or named with its reason.

Some minutes: `make conformance` runs it, `make test` does not (conftest.py).
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conformance.test_critest import SKIPS, SUITE_SECONDS, expect_all
from tests.cri.daemons import Orlopd
from tests.cri.test_handlers import PROGRAMS, handler_config

pytestmark = pytest.mark.cri
MORE_SKIPS = Path(__file__).parent / "critest-skips-handlers.toml"


@pytest.mark.timeout(SUITE_SECONDS + 60)
@pytest.mark.parametrize("handler", PROGRAMS)
def test_every_demanded_spec_passes(handler, registry, tmp_path, record_property):
    lists = tomllib.loads(SKIPS.read_text())
    for kind, entries in tomllib.loads(MORE_SKIPS.read_text()).items():
        lists[kind] = lists.get(kind, []) + [each for each in entries if handler in each["handlers"]]
    daemon = Orlopd(registry.certs_d, name=f"critest-{handler}")
    daemon.more_config = handler_config(**PROGRAMS)
    with daemon:
        figures = expect_all(daemon, tmp_path, lists, "-runtime-handler", handler)
    record_property(f"critest {handler}", figures)
