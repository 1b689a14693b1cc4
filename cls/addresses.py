"""Hosts of addresses: which is meant, and whether it is this machine alone."""

from __future__ import annotations

from ipaddress import ip_address


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
