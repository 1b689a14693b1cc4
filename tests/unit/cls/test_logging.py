"""Logs: one event a line with its ids, libraries included, and no secret in any of them."""

import json
import logging
from collections.abc import Iterator
from threading import Thread
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
        ("postgresql://u:pa/ss@h/db", "postgresql://u:***@h/db"),
        ("postgresql://h/db?sslpassword=abc&x=1", "postgresql://h/db?sslpassword=***&x=1"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("signed with whsec_MfKQ9r8GKYqr+/w=", "signed with whsec_***"),
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


TOKEN = "cls_abcDEF0123_" + "Zx9" * 14 + "Q"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TOKEN, "cls_abcDEF0123_***"),
        (f"Bearer {TOKEN}, and {TOKEN[:30]}", "Bearer cls_abcDEF0123_***, and cls_abcDEF0123_***"),
        (TOKEN[:18], "cls_abcDEF0123_***"),
        ("cls_promotions_total", "cls_promotions_total"),
        (f"b'{TOKEN}'", "b'cls_abcDEF0123_***'"),
        ("cls_test_template_0123456789", "cls_test_template_0123456789"),
        ("see cls_home and CLS_DATABASE_URL", "see cls_home and CLS_DATABASE_URL"),
    ],
)
def test_of_a_token_the_id_is_left(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_log_shows_a_token_wherever_it_stands(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure("serve", form=form, level="debug")
    log = get_logger("cls.test")
    log.info(
        "who is %s?", TOKEN, header={"authorization": f"Bearer {TOKEN}", "x": [TOKEN]}, raw=TOKEN.encode()
    )
    with bound(caller=TOKEN):
        try:
            raise ValueError(TOKEN)
        except ValueError:
            log.exception("failed", error=ValueError(TOKEN))
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received: %s", TOKEN)
    said = capsys.readouterr().err
    assert TOKEN.split("_")[2] not in said
    assert said.count("cls_abcDEF0123_***") >= 6


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


def test_events_of_threads_name_the_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("daemon", form="json", level="info")

    def work() -> None:
        with bound(stream="flights"):
            get_logger("t").info("turned")

    for _ in range(2):
        thread = Thread(target=work)
        thread.start()
        thread.join()
    get_logger("t").info("done")
    first, second, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (
        (first["process"], first["stream"]) == (second["process"], second["stream"]) == ("daemon", "flights")
    )
    assert last["process"] == "daemon"
    assert "stream" not in last
