from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop.kernel.probe import FEATURES, Probe

pytestmark = pytest.mark.kernel


def test_every_feature_has_an_outcome_and_nothing_remains(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd")), Path("/proc/self/mountinfo").read_text()
    probe = Probe(str(tmp_path))
    features = probe.all()
    assert [feature.name for feature in features] == list(FEATURES)
    assert all(feature.reason for feature in features)
    assert (sorted(os.listdir("/proc/self/fd")), Path("/proc/self/mountinfo").read_text()) == before
    assert list(tmp_path.iterdir()) == []


def test_an_outcome_is_remembered(tmp_path: Path) -> None:
    probe = Probe(str(tmp_path))
    assert probe.feature("pidfd") is probe.feature("pidfd")
    assert probe.has("pidfd")
    with pytest.raises(KeyError):
        probe.has("magic")


def test_a_scratch_directory_that_is_missing_is_a_reason(tmp_path: Path) -> None:
    feature = Probe(str(tmp_path / "missing")).feature("overlay")
    assert not feature.available
    assert "ENOENT" in feature.reason
