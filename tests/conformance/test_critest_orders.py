"""critest in other orders: its specs shuffled, three times, and four at a time. Some minutes: `make conformance` runs it, `make test` does not."""

from __future__ import annotations

import tomllib

import pytest

from tests.conformance.test_critest import SKIPS, SUITE_SECONDS, expect_all

pytestmark = [pytest.mark.cri, pytest.mark.timeout(SUITE_SECONDS + 60)]


@pytest.mark.parametrize("seed", [1, 20, 300])
def test_specs_in_random_order(seed, orlopd, tmp_path, record_property):
    lists = tomllib.loads(SKIPS.read_text())
    figures = expect_all(orlopd, tmp_path, lists, "-ginkgo.randomize-all", f"-ginkgo.seed={seed}")
    record_property(f"critest, seed {seed}", figures)


def test_four_specs_at_a_time(orlopd, tmp_path, record_property):
    record_property("critest, parallel", expect_all(orlopd, tmp_path, tomllib.loads(SKIPS.read_text()), "-parallel=4"))
