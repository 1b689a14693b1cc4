"""Logs: one event a line with its ids, libraries included, and no secret in any of them."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cls.logging import bound, configure, get_logger, redact


@pytest.fixture(autouse=True)
def undo() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://cls:s3cret@db:5432/cls", "postgresql+psycopg://cls:***@db:5432/cls"),
        ("postgresql://cls:p@ss:word@db/cls", "postgresql://cls:***@db/cls"),
        ("redis://:only@host", "redis://:***@host"),
        ("https://host/x?token=abc&y=1", "https://host/x?token=***&y=1"),
        ("postgresql:///cls?host=/run&password=abc", "postgresql:///cls?host=/run&password=***"),
        ("sqlite:////home/me/cls.db", "sqlite:////home/me/cls.db"),
        ("two: a://u:1@h and b://v:2@i", "two: a://u:***@h and b://v:***@i"),
        ("http://127.0.0.1:8710/v1?at=x@y", "http://127.0.0.1:8710/v1?at=x@y"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_passwords_in_urls_are_replaced_and_nothing_else(url: str, shown: str) -> None:
    assert redact(url) == shown


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_carries_its_ids_and_only_inside_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    configure("daemon", form="json")
    log = get_logger("cls.test")
    with bound(stream="flights", job=7):
        log.info("promoted", version=3)
    log.info("idle")
    inside, outside = events(capsys)
    assert {
        "stream": "flights",
        "job": 7,
        "version": 3,
        "process": "daemon",
        "level": "info",
    }.items() <= inside.items()
    assert inside["event"] == "promoted"
    assert inside["timestamp"].endswith("Z")
    assert "stream" not in outside


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_do_not_pass_whatever_carries_them(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure("daemon", form=form)
    url = "postgresql://cls:s3cret@db/cls"
    get_logger("cls.test").info(
        f"to {url}", url=url, nested={"urls": [url], "db_password": "s3cret"}, api_key="s3cret"
    )
    logging.getLogger("library").warning("cannot reach %s", url)
    try:
        raise ValueError(url)
    except ValueError:
        get_logger("cls.test").exception("failed")
    text = capsys.readouterr().err
    assert "s3cret" not in text
    assert "ValueError" in text
    assert text.count("cls:***@db") >= 4


def test_levels_are_honoured_and_chatty_libraries_are_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLS_LOG_LEVEL", "warning")
    configure("worker-0", form="json")
    get_logger("cls.test").info("unseen")
    get_logger("cls.test").warning("seen")
    assert [event["event"] for event in events(capsys)] == ["seen"]
    configure("worker-0", form="json", level="info")
    logging.getLogger("apscheduler.executors").info("unseen")
    logging.getLogger("other").info("seen")
    assert [event["event"] for event in events(capsys)] == ["seen"]
