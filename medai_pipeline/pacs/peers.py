"""Who may send to us: AE titles and addresses, as a setting lists them. Decides; opens nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from medai_pipeline.errors import SettingsError
from medai_pipeline.pacs.node import check_title

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """`title` "": any AE title, from `network`."""

    title: str
    network: Network


THIS_MACHINE = (Peer("", ip_network("127.0.0.0/8")), Peer("", ip_network("::1/128")))


def parse_peers(text: str) -> tuple[Peer, ...]:
    """`AET@ADDRESS` with commas, where ADDRESS is an IP address or network and AET may be `*`; empty: this machine.

    Raises SettingsError. An AE title alone identifies nobody, so each needs its address.
    """
    return tuple(_peer(part.strip()) for part in text.split(",") if part.strip()) or THIS_MACHINE


def _peer(text: str) -> Peer:
    title, separator, address = text.rpartition("@")
    if not separator:
        raise SettingsError("expected AET@ADDRESS with commas, for example CT1@10.0.0.7 or *@10.0.0.0/24")
    try:
        network = ip_network(address)
    except ValueError as error:
        raise SettingsError("an address must be an IP address or a network such as 10.0.0.0/24") from error
    return Peer("" if title == "*" else check_title(title).strip(), network)


def allows_address(peers: Sequence[Peer], address: str) -> bool:
    """Whether anybody at this IP address may connect."""
    return any(_within(peer, address) for peer in peers)


def allows(peers: Sequence[Peer], title: str, address: str) -> bool:
    return any(peer.title in {"", title.strip()} and _within(peer, address) for peer in peers)


def _within(peer: Peer, address: str) -> bool:
    parsed: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed) in peer.network
