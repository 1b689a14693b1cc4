"""Hosts of addresses: which is meant, and whether it is this machine alone."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address


def host_of(address: str) -> str:
    """Return the host of host:port in lower case; [::1]:80 is ::1."""
    if address.startswith("["):
        return address[1:].partition("]")[0].lower()
    return address.rpartition(":")[0].lower() if ":" in address else address.lower()


def is_literal(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches host:port; a name other than localhost may be anyone's."""
    host = host_of(address)
    return host == "localhost" or (is_literal(host) and ip_address(host).is_loopback)


@lru_cache(maxsize=4096)
def sender_of(address: str) -> str:
    """Return who is behind a client's address: of IPv6 its /64, in which one client has 2^64 of them.

    Examples
    --------
    >>> sender_of("2001:db8::1:2:3:4"), sender_of("::ffff:10.0.0.1"), sender_of("10.0.0.1")
    ('2001:db8::/64', '10.0.0.1', '10.0.0.1')
    """
    if not is_literal(address):
        return address
    found = ip_address(address)
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))
