"""atheris feeds the parsers of what registries and operators send: manifests, indexes, configs, references,
hosts.toml, challenges.

    python tests/fuzz/fuzz_manifest.py -max_total_time=60

Any exception but an OrlopError is a finding.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["orlop"]):
    from orlop.base.errors import OrlopError
    from orlop.registry.auth import check_target, parse_challenges
    from orlop.specs.descriptor import Platform
    from orlop.specs.hosts_toml import parse_hosts
    from orlop.specs.image import Index, parse_config, parse_document, select_platform, split_user
    from orlop.specs.reference import parse_reference

TYPES = (
    "",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    which = provider.ConsumeIntInRange(0, 5)
    with suppress(OrlopError):
        match which:
            case 0:
                media_type = TYPES[provider.ConsumeIntInRange(0, 3)]  # before the bytes: they are all that is left
                document = parse_document(provider.ConsumeBytes(1 << 16), media_type, "image x")
                if isinstance(document, Index):
                    select_platform(document, Platform(os="linux", architecture="amd64"), "image x")
            case 1:
                split_user(parse_config(provider.ConsumeBytes(1 << 16), "image x").process.user)
            case 2:
                parse_reference(provider.ConsumeUnicodeNoSurrogates(400))
            case 3:
                parse_hosts(provider.ConsumeUnicodeNoSurrogates(4000), Path("/certs"), "hosts.toml")
            case 4:
                for challenge in parse_challenges([provider.ConsumeUnicodeNoSurrogates(1000)]):
                    check_target(challenge.realm, "https", "registry.example", "realm")
            case _:
                check_target(provider.ConsumeUnicodeNoSurrogates(500), "https", "registry.example", "realm")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
