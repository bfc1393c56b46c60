"""Where nothing is sent, whoever asks for it: a request from this machine may reach what others cannot.

Machines in clouds find their credentials at link-local addresses, so these are refused, by number or by name.
Loopback and private networks are allowed: subscribers live there, and who may subscribe may run programs here
anyway.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from yarl import URL

from ..errors import Invalid

_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local (RFC 3927); metadata of most clouds
        "fe80::/10",  # link-local (RFC 4291)
        "fd00:ec2::254/128",  # metadata of EC2 over IPv6
        "fd20:ce::254/128",  # metadata of Google Cloud over IPv6
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # Azure's own services for a machine
        "192.0.0.192/32",  # metadata of Oracle Cloud
    )
)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

LOOKUP = 5.0
"""Seconds the name of a new subscriber is looked up for."""


def refused(address: str) -> bool:
    """Whether nothing is sent to a numeric address, also in the guise of IPv6."""
    ip = _undisguised(ipaddress.ip_address(address.partition("%")[0]))
    return any(ip in network for network in _REFUSED)


def _undisguised(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address in a mapped one (RFC 4291, 2.5.5.2) or in one for NAT64 (RFC 6052, 2.1)."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(ip.packed[-4:])
    return getattr(ip, "ipv4_mapped", None) or ip


async def check(url: str) -> None:
    """Raises `Invalid` for a URL that nothing will ever be sent to. One whose name is not known (yet) is let
    through: addresses are checked again each time something is sent."""
    parts = _parsed(url)
    found = []
    with suppress(OSError, UnicodeError):  # TimeoutError is an OSError
        async with asyncio.timeout(LOOKUP):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
    if any(refused(str(address[0])) for *_, address in found):
        raise Invalid(f"{parts.hostname} is a link-local or metadata address: nothing is sent there")


def _parsed(url: str) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise Invalid(f"{url!r} is not a URL: write every other character percent-encoded")
    try:
        parts = urlsplit(url)
        _ = parts.port, URL(url, encoded=True).host  # as the courier reads it
    except ValueError as error:
        raise Invalid(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"{url!r}: a subscriber's URL begins with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise Invalid("a subscriber's URL holds no user or password: they would be shown to everybody")
    return parts
