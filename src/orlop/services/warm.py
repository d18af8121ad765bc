"""What the first pod after a start would have to wait for, done before it comes: the filter of the RuntimeDefault profile (17 ms).

Begins a moment after the node is ready, so that nobody who waits for that waits for this. Test: tests/unit/services/test_warm.py.
"""

from __future__ import annotations

import asyncio
import logging

from orlop.base.errors import OrlopError
from orlop.security.profiles import compile_profile
from orlop.services.containers.spec_inputs import Host
from orlop.services.containers.spec_security import choose_seccomp
from orlop.specs.pod import ContainerSecurity, ProfileType, SecurityProfile

log = logging.getLogger(__name__)

DELAY_SECONDS = 0.2


async def warm(host: Host) -> None:
    """Compile what most containers ask for. A host that can't is told so by each container that asks; here it is only logged."""
    await asyncio.sleep(DELAY_SECONDS)
    common = ContainerSecurity(seccomp=SecurityProfile(profile_type=ProfileType.RUNTIME_DEFAULT))
    try:
        profile = choose_seccomp(common, host)
        if profile is not None:
            compile_profile(profile)
    except OrlopError as error:
        log.warning("seccomp: containers with the RuntimeDefault profile will be refused: %s", error)
