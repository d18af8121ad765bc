"""A real registry on loopback for the tests: Debian's docker-registry, in a directory of the test's own."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "{host}"}}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Registry:
    """``with Registry(directory) as registry: push(registry.host, ...)``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> Registry:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.yml"
        config.write_text(CONFIG.format(root=self.directory / "data", host=self.host))
        self.log = open(self.directory / "registry.log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while True:
            try:
                connection = http.client.HTTPConnection(self.host, timeout=1)
                connection.request("GET", "/v2/")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(
                        f"docker-registry did not start: {(self.directory / 'registry.log').read_text()}"
                    ) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
