"""How this machine's own commands call the HTTP doors: the scheme, the certificate that is trusted, the token."""

from __future__ import annotations

import os
import re
import ssl

from cls.config import Config

TOKEN_VARIABLE = "CLS_TOKEN"  # noqa: S105 - the name of an environment variable
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def url_of(config: Config, address: str) -> str:
    """Return the URL of one of our doors."""
    return f"{'http' if config.http.tls_certificate is None else 'https'}://{address}"


def trust_of(config: Config) -> ssl.SSLContext:
    """Return what trusts our certificate, and no other.

    The door is called by its address, which need not stand in the certificate: it is pinned instead, the first one of the file, which is
    the door's own.

    Raises
    ------
    OSError
        If the file of the certificate cannot be read.
    """
    context = ssl.create_default_context()
    if config.http.tls_certificate is not None:
        first = _PEM.search(config.http.tls_certificate.read_text("ascii", "replace"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if first is not None:
            context.load_verify_locations(cadata=first[0])
    return context


def token_headers() -> dict[str, str]:
    """Return the header with the token of $CLS_TOKEN; none if it is not set."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}
