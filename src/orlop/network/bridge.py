"""The built-in network: a bridge, a veth pair a pod, addresses from our own pool, masquerade and host ports.

    attach: host ports free? -> addresses reserved -> veth pair born in place -> addresses and routes inside the pod -> host ports
    detach: host ports closed -> link deleted -> addresses given back

attach is a handful of netlink batches and no wait: nothing in it polls, no address detection runs (IFA_F_NODAD), the bridge has
no spanning tree and its port forwards from the first frame. Deleting a link makes the kernel wait for RCU grace periods, 20 ms,
but once a batch: so detach hands the link to one background task that deletes all that are waiting together, off the event
loop, and only then frees their addresses. ``settle`` waits for it.
A link is ``<prefix><first ten digits of the sandbox id>`` and carries the whole id as its alias: after a crash, reconcile knows
what belongs to no pod. Never enters a namespace. Test: tests/kernel/network/test_bridge.py.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import logging
import socket
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from orlop.base import faults
from orlop.base.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, OrlopError
from orlop.base.ids import SandboxId
from orlop.base.supervise import Supervisor
from orlop.kernel import netlink, sysctl
from orlop.kernel.netlink import Interface, NetlinkError, Network
from orlop.network.attachment import INTERFACE, Attachment, AttachRequest, NetworkStatus, Route
from orlop.network.hostports import HostPorts, elements_of, refuse_listened
from orlop.network.ipam import AddressPool

log = logging.getLogger(__name__)

DEFAULT_BRIDGE: Final = "orlop0"
DEFAULT_SUBNETS: Final = ("10.85.0.0/16", "fd00:10:85::/64")
LINK_PREFIX: Final = "orlop"
_ACCEPT_RA: Final = "net.ipv6.conf.default.accept_ra"
_LINK_DIGITS: Final = 10
_NAME_BYTES: Final = 15
_DELETE_GROUP: Final = 0x6F726C70
"""Device group ("orlp") into which links are put to be deleted together. 0 is everybody's; nobody has this one by accident."""

ADDRESS, LINK, POD, HOST_PORTS = (
    "network.attach.address",
    "network.attach.link",
    "network.attach.pod",
    "network.attach.hostports",
)
CLOSED, UNLINKED = "network.detach.hostports", "network.detach.link"
faults.declare(ADDRESS, LINK, POD, HOST_PORTS, CLOSED, UNLINKED)


class BridgeNetwork:
    """One bridge with its subnets. Makes nothing before ``ensure_ready``; every name is given, so that two daemons can run."""

    def __init__(
        self,
        *,
        ipam_directory: Path,
        bridge: str = DEFAULT_BRIDGE,
        subnets: Sequence[str] = DEFAULT_SUBNETS,
        table: str = "",
        link_prefix: str = LINK_PREFIX,
    ) -> None:
        """``ipam_directory`` is StatePaths.ipam(); ``table`` defaults to the bridge's name."""
        if len(link_prefix) + _LINK_DIGITS > _NAME_BYTES:
            raise InvalidArgument(f"network {bridge}: link prefix {link_prefix!r} is longer than 5 characters")
        self.name = bridge
        self._subnets = _parse_subnets(bridge, subnets)
        self._ipam_directory = ipam_directory / bridge
        self._link_prefix = link_prefix
        self.table = table or _table_name(bridge)
        self._pool: AddressPool | None = None
        self._active: tuple[Network, ...] = ()
        """The subnets whose family this host has."""
        self._gateways: tuple[Interface, ...] = ()
        self._ports: HostPorts | None = None
        self._host: socket.socket | None = None
        self._bridge_index = 0
        self._mtu = 1500
        self._notes: list[str] = []
        self._outside = ""
        """What is to be said of subnets that are not in the node's ranges."""
        self._supervisor = Supervisor(f"network {bridge}")
        self._unlinker: ThreadPoolExecutor | None = None
        self._waiting: dict[str, SandboxId] = {}
        """Links to be deleted -> whose addresses are given back then."""
        self._unlinking: asyncio.Task[None] | None = None

    # Made once.

    def ensure_ready(self) -> None:
        """Make the bridge, its addresses, forwarding and the table, as far as they are not there. Idempotent."""
        host = self._host
        if host is None:
            host = self._host = netlink.open_socket()
        try:
            self._choose_families()
            self._refuse_overlap(host)
            self._mtu = _uplink_mtu(host)
            self._bridge_index = self._ensure_bridge(host)
            self._ensure_forwarding(host)
            if self._pool is None:
                self._pool = AddressPool(self._ipam_directory, self._active)
            if self._ports is None:
                self._ports = HostPorts(table=self.table, bridge=self.name, subnets=self._active)
            self._ports.install()
        except OSError as error:
            raise FailedPrecondition(f"network {self.name}: cannot be made ready: {error}") from error

    def _choose_families(self) -> None:
        """IPv6 that is compiled out or disabled is left alone: pods get IPv4, and the status says so."""
        self._notes.clear()
        active = []
        for subnet in self._subnets:
            if subnet.version == 6 and (
                not sysctl.exists("net/ipv6/conf/default") or sysctl.read("net/ipv6/conf/default/disable_ipv6") != "0"
            ):
                self._notes.append("ipv6 is disabled on this host, pods get ipv4 addresses only")
                continue
            active.append(subnet)
        if not active:
            raise FailedPrecondition(f"network {self.name}: subnets: ipv6 only, and ipv6 is disabled on this host")
        if self._active and tuple(active) != self._active:
            # The pool was made for other families: ipv6 was switched while we run. It stays as it was until a restart.
            self._notes.append("ipv6 was switched on or off since the start, restart the daemon to follow")
            return
        self._active = tuple(active)
        self._gateways = tuple(_first_address(subnet) for subnet in self._active)

    def _refuse_overlap(self, host: socket.socket) -> None:
        """Two links with one subnet: the kernel would send half of the pods' traffic to the other one."""
        names = {link.index: link.name for link in netlink.links(host)}
        for subnet in self._active:
            family = socket.AF_INET if subnet.version == 4 else socket.AF_INET6
            for route in netlink.routes(host, family):
                destination = route.destination
                if destination is None or route.table != netlink.RT_TABLE_MAIN or names.get(route.index) == self.name:
                    continue
                # A wider route (10.0.0.0/8) is fine: ours is more specific.
                if destination.version == subnet.version and subnet.supernet_of(destination):  # type: ignore[arg-type]
                    raise FailedPrecondition(
                        f"network {self.name}: subnet {subnet}: link {names.get(route.index, route.index)} "
                        f"has route {destination} already, choose another subnet"
                    )

    def _ensure_bridge(self, host: socket.socket) -> int:
        gateway = self._gateways[0]
        verdict = netlink.attempt(
            host, [netlink.new_bridge(self.name, mtu=self._mtu, address=_mac(gateway.ip.packed))]
        )[0]
        if verdict is not None and verdict.errno != errno.EEXIST:
            raise verdict
        found = netlink.link(host, self.name)
        if found.kind != "bridge":
            raise FailedPrecondition(
                f"network {self.name}: link {self.name} exists and is of kind {found.kind or 'unknown'}, not a bridge"
            )
        # Router advertisements of a pod must not become the host's routes.
        if any(subnet.version == 6 for subnet in self._active):
            sysctl.write(f"net/ipv6/conf/{self.name}/accept_ra", "0")
        netlink.transact(
            host,
            [
                *(netlink.add_address(found.index, each, replace=True) for each in self._gateways),
                netlink.set_up(found.index),
            ],
        )
        return found.index

    def _ensure_forwarding(self, host: socket.socket) -> None:
        for subnet in self._active:
            if subnet.version == 4:
                sysctl.write("net/ipv4/ip_forward", "1")
                # For 127.0.0.1:<host port>; the table's guard chain keeps pods away from the host's loopback.
                sysctl.write(f"net/ipv4/conf/{self.name}/route_localnet", "1")
            elif sysctl.read("net/ipv6/conf/all/forwarding") != "1":
                self._keep_advertised_routes(host)
                sysctl.write("net/ipv6/conf/all/forwarding", "1")

    def _keep_advertised_routes(self, host: socket.socket) -> None:
        """A host that forwards ignores router advertisements unless accept_ra is 2: it would lose its own default route."""
        advertised = {
            route.index for route in netlink.routes(host, socket.AF_INET6) if route.protocol == netlink.RTPROT_RA
        }
        for link in netlink.links(host):
            if link.index in advertised and sysctl.read(f"net/ipv6/conf/{link.name}/accept_ra") == "1":
                sysctl.write(f"net/ipv6/conf/{link.name}/accept_ra", "2")

    def _ready(self) -> tuple[socket.socket, AddressPool, HostPorts]:
        if self._host is None or self._pool is None or self._ports is None:
            self.ensure_ready()
        if self._host is None or self._pool is None or self._ports is None:
            raise Internal(f"network {self.name}: not ready after it was made ready")
        return self._host, self._pool, self._ports

    def made(self) -> bool:
        """Say whether this network was ever made, by this daemon or one before it: its addresses have a directory."""
        return self._host is not None or self._ipam_directory.exists()

    def holds(self, sandbox_id: str) -> bool:
        """Say whether a sandbox has anything of this network. Its address comes first and goes last."""
        if not self.made():
            return False
        _, pool, ports = self._ready()
        return bool(pool.owned_by(sandbox_id)) or sandbox_id in ports.owners

    def link_name(self, sandbox_id: str) -> str:
        return self._link_prefix + sandbox_id[:_LINK_DIGITS]

    # A pod's life.

    async def attach(self, request: AttachRequest) -> Attachment:
        """Attach a pod; needs ``netns_fd`` and ``netlink`` of the request. On failure what was made is taken back."""
        host, pool, ports = self._ready()
        if request.netns_fd < 0 or request.netlink is None:
            raise InvalidArgument(f"sandbox {request.sandbox_id}: network {self.name}: no network namespace given")
        if self.link_name(request.sandbox_id) in self._waiting:
            # Detached a moment ago, or an attach that failed is tried again.
            await self.settle()
        if pool.owned_by(request.sandbox_id):
            raise AlreadyExists(f"sandbox {request.sandbox_id}: network {self.name}: is attached already")
        # Before anything is made, for the families that a pod gets; ``add`` checks again with the addresses it has.
        placeholders = [each.ip for each in self._gateways]
        for mapping in request.port_mappings:
            wanted = elements_of(request.sandbox_id, mapping, placeholders)
            ports.check_free(request.sandbox_id, wanted)
            refuse_listened(request.sandbox_id, wanted)
        try:
            return self._attach(host, pool, ports, request.netlink, request)
        except BaseException as error:
            try:
                self._start_detach(request.sandbox_id)
            except OrlopError as undo:
                error.add_note(f"undo of the attachment failed: {undo}")
            if isinstance(error, OSError):
                raise Internal(f"sandbox {request.sandbox_id}: network {self.name}: {error}") from error
            raise

    def _attach(
        self, host: socket.socket, pool: AddressPool, ports: HostPorts, pod: socket.socket, request: AttachRequest
    ) -> Attachment:
        faults.reach(ADDRESS)
        interfaces = pool.allocate(request.sandbox_id)
        mac = _mac(interfaces[0].ip.packed)

        faults.reach(LINK)
        name = self.link_name(request.sandbox_id)
        self._make_link(host, name, request, mac)

        faults.reach(POD)
        interfaces = self._configure_pod(pod, interfaces)
        gateways = [each for each in self._gateways if any(each.version == own.version for own in interfaces)]

        faults.reach(HOST_PORTS)
        ports.add(request.sandbox_id, request.port_mappings, [each.ip for each in interfaces])
        return Attachment(
            sandbox_id=request.sandbox_id,
            network=self.name,
            kind="bridge",
            netns=request.netns_path,
            host_interface=name,
            mac=":".join(f"{byte:02x}" for byte in mac),
            ips=tuple(str(each.ip) for each in interfaces),
            addresses=tuple(str(each) for each in interfaces),
            gateways=tuple(str(each.ip) for each in gateways),
            routes=tuple(
                Route(destination="0.0.0.0/0" if each.version == 4 else "::/0", gateway=str(each.ip))
                for each in gateways
            ),
            port_mappings=request.port_mappings,
        )

    def _make_link(self, host: socket.socket, name: str, request: AttachRequest, mac: bytes) -> None:
        for last in (False, True):
            requests = [
                netlink.new_veth(
                    name,
                    peer=INTERFACE,
                    peer_netns_fd=request.netns_fd,
                    master=self._bridge_index,
                    mtu=self._mtu,
                    peer_address=mac,
                ),
                # Hairpin: with bridge-nf-call-iptables a translated frame goes back to the port it came from.
                netlink.change_port(name, alias=request.sandbox_id, hairpin=True),
            ]
            verdict = next((each for each in netlink.attempt(host, requests) if each is not None), None)
            if verdict is None:
                return
            if last or self._bridge_exists(host):
                raise verdict
            # Somebody deleted the bridge. The pair, if it was made, is no port of anything.
            netlink.attempt(host, [netlink.delete_link(name)])
            self.ensure_ready()

    def _bridge_exists(self, host: socket.socket) -> bool:
        try:
            return netlink.link(host, self.name).index == self._bridge_index
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return False
            raise

    def _configure_pod(self, pod: socket.socket, interfaces: tuple[Interface, ...]) -> tuple[Interface, ...]:
        """Bring lo and eth0 up, add addresses and default routes; returns the addresses that the pod really has."""
        index = netlink.link(pod, INTERFACE).index
        requests = [netlink.set_up(netlink.LOOPBACK_INDEX), netlink.set_up(index)]
        for interface, gateway in zip(interfaces, self._gateways, strict=True):
            requests.append(netlink.add_address(index, interface))
            requests.append(netlink.add_route(index, gateway.ip))
        verdicts = netlink.attempt(pod, requests)
        kept = []
        for place, interface in enumerate(interfaces):
            refused = verdicts[2 + 2 * place]
            # The pod's own sysctls may switch IPv6 off (EACCES), or the kernel has none (EOPNOTSUPP): such a pod has IPv4 only.
            if refused is not None and interface.version == 6 and refused.errno in (errno.EACCES, errno.EOPNOTSUPP):
                verdicts[2 + 2 * place] = verdicts[3 + 2 * place] = None
                continue
            kept.append(interface)
        for verdict in verdicts:
            if verdict is not None:
                raise verdict
        if not kept:
            raise FailedPrecondition(
                f"network {self.name}: ipv6 is disabled in the pod, and this network has no other addresses"
            )
        return tuple(kept)

    async def detach(self, request: AttachRequest, attachment: Attachment | None = None) -> None:
        """Close the pod's host ports and begin the deletion of its link; its addresses follow when the link is gone."""
        self._start_detach(request.sandbox_id)

    def _start_detach(self, sandbox_id: SandboxId) -> None:
        _, pool, ports = self._ready()
        ports.remove(sandbox_id)
        faults.reach(CLOSED)
        # No address means no link: attach reserves the one before it makes the other.
        if pool.owned_by(sandbox_id):
            self._waiting[self.link_name(sandbox_id)] = sandbox_id
            self._begin_unlink()

    def _begin_unlink(self) -> None:
        if self._waiting and (self._unlinking is None or self._unlinking.done()):
            self._unlinking = self._supervisor.spawn("unlink", self._unlink())

    async def _unlink(self) -> None:
        """Delete the links that wait, all at once, until none waits; then free their addresses."""
        if self._unlinker is None:
            self._unlinker = ThreadPoolExecutor(1, thread_name_prefix="orlop-unlink")
        loop = asyncio.get_running_loop()
        _, pool, _ = self._ready()
        while self._waiting:
            batch = dict(self._waiting)
            await loop.run_in_executor(self._unlinker, functools.partial(_delete_links, tuple(batch)))
            faults.reach(UNLINKED)
            for name, sandbox_id in batch.items():
                del self._waiting[name]
                pool.release(sandbox_id)

    async def settle(self) -> None:
        """Wait until all links of detached pods are gone. Raises what stopped their deletion."""
        while self._waiting:
            self._begin_unlink()
            if self._unlinking is not None:
                try:
                    await asyncio.shield(self._unlinking)
                except OSError as error:
                    raise Internal(f"network {self.name}: links {', '.join(self._waiting)}: {error}") from error

    async def check(self, request: AttachRequest, attachment: Attachment) -> None:
        """Raise FailedPrecondition that names what is not as attach left it."""
        host, pool, _ = self._ready()
        subject = f"sandbox {request.sandbox_id}: network {self.name}"
        try:
            link = netlink.link(host, attachment.host_interface)
        except NetlinkError as error:
            raise FailedPrecondition(f"{subject}: {error}") from error
        if link.master != self._bridge_index or link.alias != request.sandbox_id or not link.up:
            raise FailedPrecondition(f"{subject}: link {link.name} is not the pod's port of the bridge any more")
        missing = set(attachment.ips) - set(pool.owned_by(request.sandbox_id))
        if missing:
            raise FailedPrecondition(f"{subject}: address {sorted(missing)[0]} is not reserved any more")
        if request.netlink is not None:
            there = {str(each.interface) for each in netlink.addresses(request.netlink)}
            for address in attachment.addresses:
                if address not in there:
                    raise FailedPrecondition(f"{subject}: address {address} is not on {attachment.interface} any more")

    async def reconcile(self, live: AbstractSet[str]) -> None:
        """Remove host ports, links and addresses of all sandboxes that are not live."""
        host, pool, ports = self._ready()
        try:
            ports.reconcile(live)
            for link in netlink.links(host, master=self._bridge_index):
                if not link.name.startswith(self._link_prefix) or link.kind != "veth":
                    continue
                # Without an alias: the daemon died between making the pair and naming its owner.
                owner = link.alias or self._owner_by_name(pool, link.name)
                if owner not in live:
                    self._waiting[link.name] = SandboxId(owner)
        except OSError as error:
            raise Internal(f"network {self.name}: cannot be reconciled: {error}") from error
        for owner in set(pool.owners.values()):
            if owner not in live:
                self._waiting.setdefault(self.link_name(owner), SandboxId(owner))
        await self.settle()

    def _owner_by_name(self, pool: AddressPool, name: str) -> str:
        return next((owner for owner in pool.owners.values() if self.link_name(owner) == name), "")

    async def sweep(self, known: AbstractSet[str]) -> None:
        """Go on with the deletion of links that failed; detach has taken back the rest, or said why not."""
        self._begin_unlink()

    async def status(self) -> NetworkStatus:
        """Make sure that bridge and table are there (both can be deleted under us) and say whether pods can be attached."""
        try:
            host, _, ports = self._ready()
            if not self._bridge_exists(host) or not ports.installed():
                self.ensure_ready()
        except (OrlopError, OSError) as error:
            return NetworkStatus(False, "BuiltInNetworkNotReady", str(error))
        self._begin_unlink()
        return NetworkStatus(True, "", "; ".join(filter(None, (*self._notes, self._outside))))

    def pod_sysctls(self) -> Mapping[str, str]:
        """Router advertisements are not accepted: a pod could make itself the router of its neighbours. Their routes are ours."""
        return {_ACCEPT_RA: "0"} if sysctl.exists(_ACCEPT_RA.replace(".", "/")) else {}

    def set_pod_ranges(self, ranges: Sequence[str]) -> None:
        """Compare the cluster's ranges for this node with the subnets; a difference is said in the status, and changes nothing.

        Addresses that pods have can't be taken back, and the configuration is the operator's word: subnets outside of the node's
        ranges work on this node, but other nodes have no route to them.
        """
        parsed = [_parse_range(self.name, each) for each in ranges]
        outside = [
            subnet
            for subnet in self._subnets
            if (same := [each for each in parsed if each.version == subnet.version])
            and not any(subnet.subnet_of(each) for each in same)  # type: ignore[arg-type]
        ]
        self._outside = ""
        if outside:
            self._outside = (
                f"subnets {', '.join(map(str, outside))} are not in the ranges that the cluster gave this node "
                f"({', '.join(map(str, parsed))}): other nodes have no route to its pods; set network.subnets"
            )
            log.warning("network %s: %s", self.name, self._outside)

    async def close(self) -> None:
        """Finish pending deletions and close sockets; pods, bridge and table stay."""
        await self.settle()
        await self._supervisor.close()
        if self._unlinker is not None:
            self._unlinker.shutdown()
            self._unlinker = None
        if self._ports is not None:
            self._ports.close()
            self._ports = None
        if self._host is not None:
            self._host.close()
            self._host = None

    async def uninstall(self) -> None:
        """Remove the network with every pod's part in it: bridge, links, addresses, table. ip_forward stays."""
        host, _, ports = self._ready()
        await self.reconcile(frozenset())
        ports.uninstall()
        netlink.transact(host, [netlink.delete_link(self.name)])
        await self.close()


def _delete_links(names: Sequence[str]) -> None:
    """Delete links by name in one go; those that are gone already are fine. Runs on the unlink thread, with its own socket."""
    opened = netlink.open_socket()
    try:
        requests = [netlink.set_group(name, _DELETE_GROUP) for name in names]
        verdicts = netlink.attempt(opened, [*requests, netlink.delete_group(_DELETE_GROUP)])
        for verdict in verdicts:
            if verdict is not None and verdict.errno != errno.ENODEV:
                raise verdict
    finally:
        opened.close()


def _parse_subnets(bridge: str, subnets: Sequence[str]) -> tuple[Network, ...]:
    parsed: list[Network] = []
    for each in subnets:
        try:
            subnet = ipaddress.ip_network(each)
        except ValueError as error:
            raise InvalidArgument(f"network {bridge}: subnets: {error}") from None
        if subnet.num_addresses < 4:
            raise InvalidArgument(f"network {bridge}: subnets: {subnet} has no room for a gateway and a pod")
        parsed.append(subnet)
    if not parsed or len({each.version for each in parsed}) != len(parsed):
        raise InvalidArgument(f"network {bridge}: subnets: one ipv4 subnet, one ipv6 subnet, or one of each")
    # The IPv4 address is the primary one.
    return tuple(sorted(parsed, key=lambda each: each.version))


def _parse_range(bridge: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"network {bridge}: pod_cidr: {error}") from None


def _first_address(subnet: Network) -> Interface:
    number = int(subnet.network_address) + 1
    if subnet.version == 4:
        return ipaddress.IPv4Interface((number, subnet.prefixlen))
    return ipaddress.IPv6Interface((number, subnet.prefixlen))


def _table_name(bridge: str) -> str:
    """Return the table of a bridge: its name in nft's alphabet, recognisable as ours."""
    name = "".join(letter if letter.isalnum() else "_" for letter in bridge)
    return name if name.startswith("orlop") else f"orlop_{name}"


def _mac(packed: bytes) -> bytes:
    """Derive a locally administered MAC from an address: a reused address keeps its MAC, so neighbour caches stay right."""
    return b"\x0a\x58" + packed[-4:]


def _uplink_mtu(host: socket.socket) -> int:
    """Return the MTU of the link of the default route: a pod must not send what the host's own link cannot carry."""
    mtus = {link.index: link.mtu for link in netlink.links(host)}
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in netlink.routes(host, family):
            if route.destination is None and route.table == netlink.RT_TABLE_MAIN and route.index in mtus:
                return mtus[route.index]
    return 1500
