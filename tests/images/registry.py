"""A real registry on loopback for the tests: Debian's docker-registry, in a directory of the test's own."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


def configuration(
    data: Path,
    host: str,
    *,
    certificate: tuple[Path, Path] | None = None,
    client_authority: Path | None = None,
    prefix: str = "",
    auth: dict[str, dict[str, str]] | None = None,
) -> dict[str, object]:
    """docker-registry's configuration: JSON is YAML."""
    http: dict[str, object] = {"addr": host}
    if prefix:
        http["prefix"] = prefix
    if certificate is not None:
        http["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
        if client_authority is not None:
            http["tls"] |= {"clientcas": [str(client_authority)]}
    return {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(data)}, "delete": {"enabled": True}},
        "http": http,
        **({"auth": auth} if auth else {}),
    }


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Registry:
    """``with Registry(directory) as registry: push(registry.host, ...)``; ``options`` are those of ``configuration``."""

    def __init__(self, directory: Path, *, data: Path | None = None, **options: Any) -> None:
        self.directory = directory
        self.data = data or directory / "data"
        self.options = options
        self.host = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> Registry:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.yml"
        config.write_text(json.dumps(configuration(self.data, self.host, **self.options)))
        self.log = open(self.directory / "registry.log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while True:
            try:
                if self._answers():
                    return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(
                        f"docker-registry did not start: {(self.directory / 'registry.log').read_text()}"
                    ) from None
                time.sleep(0.05)

    def _answers(self) -> bool:
        if self.options:  # TLS or credentials: that somebody listens is enough
            address, port = self.host.split(":")
            socket.create_connection((address, int(port)), timeout=1).close()
            return True
        connection = http.client.HTTPConnection(self.host, timeout=1)
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
