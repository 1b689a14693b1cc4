"""Webhooks: what happens is told to those who serve elsewhere, signed by the Standard Webhooks specification (standardwebhooks.com).

Each webhook is told every announcement that it asked for, in order and at least once; `webhook-id` is the same at each try, so that a
receiver tells a repetition from news. One thread per webhook: none waits for another, nor for MLflow.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from threading import Event

import orjson
import structlog

from cls.domain import Json
from cls.elsewhere.outbound import Answer, OutboundError, Resolve, post
from cls.elsewhere.signing import SecretError, keys_of, signature
from cls.errors import Temporary
from cls.settings.http import WebhookConfig
from cls.times import to_us
from storage.webhooks import Announcement, SqlWebhooks

log = structlog.get_logger("cls.elsewhere.webhooks")
LOOK_SECONDS = 0.5  # between two looks for news
HOLD_MARGIN = timedelta(seconds=30)  # beyond the time of a delivery, for a busy machine and the database
FIRST_DELAY, LONGEST_DELAY = timedelta(seconds=5), timedelta(hours=1)
GIVE_UP_AFTER = timedelta(hours=24)  # of trying
SECRET_DELAY = timedelta(minutes=1)  # between two looks for a secret that is not there


def body_of(kind: str, at: datetime, data: Json) -> bytes:
    """Return a message's body."""
    return orjson.dumps({"type": kind, "timestamp": at.isoformat(), "data": data})


def tell(
    hook: WebhookConfig, message_id: str, body: bytes, *, resolve: Resolve = socket.getaddrinfo
) -> Answer:
    """Post one signed message.

    Raises
    ------
    SecretError
        If it cannot be signed.
    OutboundError
        If no answer came.
    """
    now = int(time.time())
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "user-agent": "cls-webhooks",
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(
            signature(key, message_id, now, body) for key in keys_of(hook.secret_env)
        ),
    }
    return post(
        hook.url,
        body,
        headers,
        timeout=hook.timeout_seconds,
        allow_private=hook.allow_private,
        resolve=resolve,
    )


def run_webhook(name: str, hook: WebhookConfig, rows: SqlWebhooks, stop: Event) -> None:
    """Tell a webhook what happens until told to stop."""
    begun = False
    while not stop.is_set():
        try:
            if not begun:
                rows.begin(name)
                begun = True
            if not deliver_next(name, hook, rows):
                stop.wait(LOOK_SECONDS)
        except Temporary as error:  # the database
            log.warning("webhook waits", webhook=name, reason=str(error))
            stop.wait(error.delay)


def deliver_next(
    name: str, hook: WebhookConfig, rows: SqlWebhooks, *, resolve: Resolve = socket.getaddrinfo
) -> bool:
    """Tell a webhook its next announcement.

    Returns
    -------
    True if one was dealt with and the next may follow at once.

    Raises
    ------
    Unavailable
        If the database does not answer.
    """
    told = rows.take(name, hook, timedelta(seconds=hook.timeout_seconds) + HOLD_MARGIN)
    if told is None:
        return False
    body = body_of(told.kind, told.created_at, {"stream": told.stream, **told.payload})
    try:
        answer = tell(hook, message_id(told), body, resolve=resolve)
    except SecretError as error:  # ours to repair: the message waits for as long as it takes
        rows.postponed(told, str(error), SECRET_DELAY, counts=False)
        return False
    except OutboundError as error:
        return _failed(rows, told, str(error), timedelta())
    if 200 <= answer.status < 300:
        rows.delivered(told)
        return True
    if answer.status == 410:
        text = f"it answered 410 Gone; `cls webhook resume {name}` goes on where it stopped"
        log.warning("webhook paused", webhook=name, announcement=told.id)
        rows.paused(told, text)
        return False
    text = f"answered {answer.status}"
    if 300 <= answer.status < 400:
        text += ", a redirect: none is followed, set url to where it leads"
    return _failed(rows, told, text, _retry_after(answer.headers))


def message_id(told: Announcement) -> str:
    """Return the id that stays the same at each try, and differs between installations."""
    return f"msg_{told.id}_{to_us(told.created_at):x}"


def _failed(rows: SqlWebhooks, told: Announcement, error: str, asked: timedelta) -> bool:
    tried = sum((_backoff(n) for n in range(told.attempts)), timedelta())
    if tried >= GIVE_UP_AFTER:
        log.error("webhook gave up", webhook=told.webhook, announcement=told.id, reason=error)
        rows.given_up(told, error)
        return True
    log.warning("webhook failed", webhook=told.webhook, announcement=told.id, reason=error)
    rows.postponed(told, error, min(max(_backoff(told.attempts), asked), LONGEST_DELAY))
    return False


def _backoff(attempts: int) -> timedelta:
    """Return the delay after a number of earlier failures: doubling, up to the longest."""
    return min(timedelta(seconds=FIRST_DELAY.total_seconds() * 2.0 ** min(attempts, 20)), LONGEST_DELAY)


def _retry_after(headers: Mapping[str, str]) -> timedelta:
    """Return what the receiver asked for in whole seconds; a date is not read, our own delays do as well."""
    text = headers.get("retry-after", "")
    return (
        timedelta(seconds=int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else timedelta()
    )
