"""Where a request comes from: the address of its connection, or what a proxy that the site trusts says of it.

Anybody can write X-Forwarded-For; it counts from MEDAI_TRUSTED_PROXIES alone, and as far to the left as trusted ones wrote it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from fastapi import Request

HEADER = "x-forwarded-for"
_ONE_HOUSE = 64  # bits of an IPv6 address that stand for one network of somebody, who may use all addresses in it


def address(request: Request) -> str:
    """The caller's IP address (of IPv6 its network), as far as it is known; "unknown" without any."""
    peer = request.client.host if request.client else "unknown"
    trusted = tuple(ip_network(proxy) for proxy in request.app.state.services.settings.trusted_proxies)
    return _told(_caller(peer, request.headers.getlist(HEADER), trusted))


def _caller(peer: str, headers: list[str], trusted: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """The last address of the chain that is no trusted proxy's; what cannot be read ends the chain."""
    chain = [part.strip() for header in headers for part in header.split(",")]
    found = peer
    while _is_within(found, trusted) and chain:
        before = chain.pop()
        if _parsed(before) is None:
            break
        found = before
    return found


def _is_within(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _told(address: str) -> str:
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _ONE_HOUSE), strict=False))
    return str(parsed) if parsed else address
