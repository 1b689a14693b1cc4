"""Faults of `[webhooks.NAME]`: a secret that is not there, news that never comes, streams that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cls.elsewhere.signing import SecretError, keys_of
from cls.settings.faults import Key, nearest

if TYPE_CHECKING:
    from cls.config import Config

_HOST = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#\\]*)")
KINDS = (
    "rollout.waiting",
    "rollout.shadow",
    "rollout.canary",
    "rollout.held",
    "rollout.promoted",
    "rollout.done",
    "rollout.rejected",
    "rollout.rolled_back",
    "drift.alarm",
    "update.failed",
)  # of announcements


def shown(url: str) -> str:
    """Return a URL as it may be shown: its path, query and user may hold secrets.

    Examples
    --------
    >>> shown("https://me:pw@hooks.example:8443/services/T0/s3cret?token=x")
    'https://hooks.example:8443'
    """
    found = _HOST.match(url)
    return "".join(found.groups()) if found else "***"


def webhook_faults(config: Config) -> Iterator[tuple[Key, str]]:
    """Yield what is wrong with the webhooks here: in this environment, beside these streams."""
    for name, hook in config.webhooks.items():
        key = ("webhooks", name)
        try:
            keys_of(hook.secret_env)
        except SecretError as error:
            yield (*key, "secret_env"), str(error)
        for fault in _url_faults(hook.url):
            yield (*key, "url"), fault
        for kind in hook.kinds:
            if not any(fnmatchcase(known, kind) for known in KINDS):
                yield (*key, "kinds"), f"nothing is ever called {kind!r}{nearest(kind, list(KINDS))}"
        for stream in hook.streams:
            if stream not in config.streams:
                yield (
                    (*key, "streams"),
                    f"no stream is called {stream!r}{nearest(stream, list(config.streams))}",
                )


def _url_faults(text: str) -> Iterator[str]:
    try:
        url = urlsplit(text)
        port = url.port  # a ValueError beyond 65535
    except ValueError as error:
        yield f"not a URL: {error}"
        return
    if port == 0:
        yield "there is no port 0"
    if "@" in url.netloc:
        yield "name and password in the URL are not sent; the signature says who calls"
