"""services.warm: the first container with the common profile finds its filter compiled."""

from __future__ import annotations

import pytest

from orlop.oci.kernelnames import CAPABILITIES
from orlop.security import profiles
from orlop.services import warm
from orlop.services.containers.spec_inputs import Host
from orlop.services.containers.spec_security import choose_seccomp
from orlop.specs.pod import ContainerSecurity, SecurityProfile


async def test_the_filter_of_runtime_default_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "DELAY_SECONDS", 0)
    profiles._filters.clear()
    host = Host(capabilities=CAPABILITIES)
    await warm.warm(host)
    asked = choose_seccomp(ContainerSecurity(seccomp=SecurityProfile()), host)
    assert asked is not None
    assert list(profiles._filters) == [asked.digest]
