from __future__ import annotations

import pytest

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.kernel.cgroupfs import discover_mounted
from orlop.oci.cgroups.driver import detect
from tests.kernel.cgroups.conftest import DEFAULT, OWNER

pytestmark = pytest.mark.kernel


def test_the_version_is_that_of_the_controllers() -> None:
    driver = detect(owner=OWNER, default_parent=DEFAULT)
    v1 = any("memory" in each.controllers for each in discover_mounted() if each.version == 1)
    assert driver.version == (1 if v1 else 2)
    assert driver.parent_path("", "s") == DEFAULT
    driver.close()


def test_modes() -> None:
    with pytest.raises(Unimplemented, match="systemd"):
        detect("systemd")
    with pytest.raises(InvalidArgument, match="neither"):
        detect("docker")
    with pytest.raises(InvalidArgument, match="owner"):
        detect(owner="a\nb")
