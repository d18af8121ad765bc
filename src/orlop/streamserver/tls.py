"""The server's certificate: read at the start, and again when its files have changed or the daemon is told to reload.

Connections keep the certificate that they began with. A pair of files that does not load leaves the old one in use, with a word in the log:
a rotation that is half done must not end the service. Test: tests/unit/streamserver/test_server.py.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from orlop.base.errors import FailedPrecondition

log = logging.getLogger(__name__)


class Certificate:
    """A context for new connections, made anew as its two files change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises FailedPrecondition when the files cannot be read or do not belong together."""
        self._files = (certificate, key)
        self._seen = self._stamp()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context to use now."""
        if self._stamp() != self._seen:
            self.reload()
        return self._context

    def reload(self) -> None:
        """Read the files again; what does not load is logged and changes nothing."""
        self._seen = self._stamp()
        try:
            self._context = self._load()
        except FailedPrecondition as error:
            log.warning("%s; the certificate in use stays", error)
        else:
            log.info("streaming: certificate %s is read again", self._files[0])

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for file in self._files:
            try:
                status = os.stat(file)
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise FailedPrecondition(
                f"streaming: certificate {self._files[0]} with key {self._files[1]}: {reason.lower()}"
            ) from None
        return context
