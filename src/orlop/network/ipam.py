"""Addresses of the built-in network: who has which, in memory and as files that outlive the daemon.

The files are laid out as CNI's host-local does: ``<directory>/<address>`` holds ``<sandbox id>\\r\\n<interface>`` and
``last_reserved_ip.<n>`` where the search goes on, so an operator finds the owner of an address with cat. One daemon owns the
directory (it holds the state directory's lock), so there is no lock here. A reservation is made before its address is used and given
back only by ``release``, which the caller calls when the link that used it is gone. A kill between creating and writing a
file leaves an empty one, which no sandbox owns: ``reconcile`` frees it.
Never touches a link. Test: tests/unit/network/test_ipam.py.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from orlop.base.errors import ResourceExhausted
from orlop.kernel.netlink import Interface, Network

_LAST: Final = "last_reserved_ip."


class AddressPool:
    """Allocates one address of every subnet to each owner, round robin."""

    def __init__(self, directory: Path, subnets: tuple[Network, ...], *, interface: str = "eth0") -> None:
        self._directory = directory
        self._subnets = subnets
        self._interface = interface
        self._owners: dict[str, str] = {}
        """Textual address -> owner."""
        self._owned: dict[str, list[str]] = {}
        """Owner -> textual addresses, in the order of the subnets."""
        self._last = [0] * len(subnets)
        self._load()

    @property
    def owners(self) -> dict[str, str]:
        """Return a copy of address -> owner."""
        return dict(self._owners)

    def owned_by(self, owner: str) -> tuple[str, ...]:
        return tuple(self._owned.get(owner, ()))

    def _load(self) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        for entry in sorted(os.scandir(self._directory), key=lambda entry: entry.name):
            if entry.name.startswith(_LAST):
                self._load_last(entry.name)
                continue
            try:
                address = str(ipaddress.ip_address(entry.name))
            except ValueError:
                continue
            # An empty file was being written when the daemon died.
            owner = Path(entry.path).read_bytes().decode(errors="replace").split("\r\n", 1)[0].strip()
            self._remember(address, owner)
        for addresses in self._owned.values():
            addresses.sort(key=self._rank)

    def _load_last(self, name: str) -> None:
        """Take up the search where it was; a file that says nothing useful (killed while writing) only costs the order."""
        number = name.removeprefix(_LAST)
        if not number.isdigit() or int(number) >= len(self._subnets):
            return
        try:
            last = ipaddress.ip_address((self._directory / name).read_text().strip())
        except ValueError:
            return
        if last in self._subnets[int(number)]:
            self._last[int(number)] = int(last)

    def _rank(self, address: str) -> int:
        parsed = ipaddress.ip_address(address)
        return next((place for place, subnet in enumerate(self._subnets) if parsed in subnet), len(self._subnets))

    def _remember(self, address: str, owner: str) -> None:
        self._owners[address] = owner
        self._owned.setdefault(owner, []).append(address)

    def allocate(self, owner: str) -> tuple[Interface, ...]:
        """Reserve one address of each subnet; raises ResourceExhausted and then keeps none."""
        found: list[Interface] = []
        try:
            for place in range(len(self._subnets)):
                found.append(self._reserve(place, owner))
        except BaseException:
            self.release(owner)
            raise
        return tuple(found)

    def _reserve(self, place: int, owner: str) -> Interface:
        subnet = self._subnets[place]
        # Network address and gateway at the lower end; IPv4's broadcast at the upper.
        lowest = int(subnet.network_address) + 2
        highest = int(subnet.broadcast_address) - (1 if subnet.version == 4 else 0)
        size = highest - lowest + 1
        start = self._last[place] + 1
        if not lowest <= start <= highest:
            start = lowest
        kind = ipaddress.IPv4Interface if subnet.version == 4 else ipaddress.IPv6Interface
        # Of len(owners) + 1 different addresses at least one is free.
        for step in range(min(size, len(self._owners) + 1)):
            number = lowest + (start - lowest + step) % size
            interface: Interface = kind((number, subnet.prefixlen))
            address = str(interface.ip)
            if address in self._owners:
                continue
            self._write(address, f"{owner}\r\n{self._interface}", os.O_EXCL)
            self._remember(address, owner)
            self._last[place] = number
            self._write(f"{_LAST}{place}", address, os.O_TRUNC)
            return interface
        raise ResourceExhausted(f"network {self._directory.name}: all {max(size, 0)} addresses of {subnet} are in use")

    def _write(self, name: str, content: str, flag: int) -> None:
        path = f"{self._directory}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)

    def release(self, owner: str) -> None:
        """Give back all addresses of an owner; none is fine. Call it once their link is gone."""
        for address in list(self._owned.get(owner, ())):
            # Removed by an operator: free is what we want it to be.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._directory}/{address}")
            self._owners.pop(address, None)
            self._owned[owner].remove(address)
        self._owned.pop(owner, None)

    def reconcile(self, keep: AbstractSet[str]) -> list[str]:
        """Free the addresses of all owners but these; returns the owners that lost theirs."""
        gone = [owner for owner in self._owned if owner not in keep]
        for owner in gone:
            self.release(owner)
        return gone
