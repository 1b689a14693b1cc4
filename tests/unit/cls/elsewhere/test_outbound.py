"""Requests to addresses that others chose: which are taken, and that what was judged is what is called."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls.elsewhere.outbound import ANSWER_BYTES, OutboundError, forbidden, post
from tests.integration.receiver import Receiver, receiving

INSIDE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.9", "168.63.129.16", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1",
    "2002:7f00:1::", "3fff::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe", "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1",
]  # fmt: skip
OUTSIDE = [
    "1.1.1.1",
    "93.184.216.34",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
]

PATIENCE = 60.0  # seconds for what takes milliseconds on a machine that has nothing else to do


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.mark.parametrize("address", INSIDE)
def test_what_lies_inside_is_refused(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_the_public_internet_is_not(address: str) -> None:
    assert forbidden(address) is None


@given(st.ip_addresses(v=4))
def test_however_an_address_is_written_it_is_judged_alike(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    nat64 = ipaddress.IPv6Address(bytes.fromhex("0064ff9b") + b"\0" * 8 + address.packed)
    six_to_four = ipaddress.IPv6Address(b"\x20\x02" + address.packed + b"\0" * 10)
    assert (
        forbidden(str(address))
        == forbidden(str(mapped))
        == forbidden(str(nat64))
        == forbidden(str(six_to_four))
    )


@given(st.ip_addresses())
def test_nothing_taken_is_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if forbidden(str(address)) is None:
        assert not any(
            (address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified)
        )
        inner = getattr(address, "ipv4_mapped", None) or address
        assert inner.is_global or address in ipaddress.ip_network("64:ff9b::/96")


def test_a_name_that_answers_differently_a_moment_later_is_asked_once(receiver: Receiver) -> None:
    port = int(receiver.url.split(":")[2].partition("/")[0])
    asked: list[str] = []

    def rebinding(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        place = ("93.184.216.34" if len(asked) == 1 else "127.0.0.1", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place)]

    with pytest.raises(OutboundError):  # nobody there, and nobody else is called instead
        post(f"http://rebind.test:{port}/", b"{}", {}, timeout=0.5, resolve=rebinding)
    assert asked == ["rebind.test"]
    assert receiver.received == []
    with pytest.raises(OutboundError, match=r"127\.0\.0\.1 is a loopback address"):
        post(f"http://rebind.test:{port}/", b"{}", {}, timeout=0.5, resolve=rebinding)
    assert receiver.received == []


def test_of_several_addresses_only_those_outside_are_called(receiver: Receiver) -> None:
    port = int(receiver.url.split(":")[2].partition("/")[0])
    places = [("127.0.0.1", port), ("::1", port, 0, 0), ("10.0.0.1", port)]

    def mixed(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6 if len(place) == 4 else socket.AF_INET, socket.SOCK_STREAM, 6, "", place)
            for place in places
        ]

    with pytest.raises(OutboundError, match="allow_private"):
        post("http://mixed.test/", b"{}", {}, timeout=PATIENCE, resolve=mixed)
    assert receiver.received == []


def test_proxies_of_the_environment_are_not_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(receiver.url, b"{}", {}, timeout=PATIENCE, allow_private=True).status == 204


def test_a_name_is_sent_as_the_host(receiver: Receiver) -> None:
    port = int(receiver.url.split(":")[2].partition("/")[0])

    def here(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    post(f"http://Bücher.example:{port}/a", b"{}", {}, timeout=PATIENCE, allow_private=True, resolve=here)
    assert receiver.received[0].headers["host"] == f"xn--bcher-kva.example:{port}"


def _dripping(handler: BaseHTTPRequestHandler) -> None:
    try:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


def test_an_answer_that_drips_ends_at_the_deadline(receiver: Receiver) -> None:
    receiver.write = _dripping
    began = time.monotonic()
    with pytest.raises(OutboundError, match="no answer within"):
        post(receiver.url, b"{}", {}, timeout=0.7, allow_private=True)
    assert 0.5 < time.monotonic() - began < 30  # the drops would take five minutes


def test_an_answer_without_an_end_is_not_read_to_its_end(receiver: Receiver) -> None:
    sent = [0]

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
        try:
            while True:
                sent[0] += handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    receiver.write = endless
    answer = post(receiver.url, b"{}", {}, timeout=PATIENCE, allow_private=True)
    assert answer.status == 200
    assert answer.seconds < PATIENCE
    assert sent[0] < ANSWER_BYTES + (32 << 20)  # the kernel's buffers


def _stalling(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")
    time.sleep(2)


def _resetting(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")
    time.sleep(0.2)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _breaking_off(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")


@pytest.mark.parametrize("write", [_stalling, _resetting, _breaking_off])
def test_an_answer_counts_though_its_body_never_ends(
    receiver: Receiver, write: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    receiver.write = write
    assert post(receiver.url, b"{}", {}, timeout=0.7, allow_private=True).status == 200


def test_a_name_that_resolves_slowly_ends_at_the_deadline() -> None:
    free = Event()

    def slow(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        free.wait(PATIENCE)
        return []

    began = time.monotonic()
    with pytest.raises(OutboundError, match="no answer within"):
        post("http://slow.test/", b"{}", {}, timeout=0.3, resolve=slow)
    assert time.monotonic() - began < PATIENCE / 2
    free.set()


def test_headers_without_an_end_are_refused(receiver: Receiver) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                handler.wfile.write(b"x: " + b"y" * 60_000 + b"\r\n")
        except OSError:
            pass

    receiver.write = endless
    with pytest.raises(OutboundError):
        post(receiver.url, b"{}", {}, timeout=PATIENCE, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://no-such-host.invalid/",
        "http://[::1",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:0/",
    ],
)
def test_what_cannot_be_reached_is_one_error(url: str) -> None:
    with pytest.raises(OutboundError):
        post(url, b"{}", {}, timeout=PATIENCE, allow_private=True)


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a self-signed certificate of a host name, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


def test_tls_is_checked_by_the_name_though_the_address_was_chosen_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = _certificate(tmp_path, "hooks.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def answer_twice() -> None:
            for _ in range(2):
                with suppress(OSError):  # the second caller ends the handshake
                    connection, _ = listener.accept()
                    with connection, server.wrap_socket(connection, server_side=True) as wrapped:
                        wrapped.recv(65536)
                        wrapped.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = Thread(target=answer_twice, daemon=True)
        thread.start()
        port = listener.getsockname()[1]

        def here(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        found = post(
            f"https://hooks.test:{port}/", b"{}", {}, timeout=PATIENCE, allow_private=True, resolve=here
        )
        assert found.status == 204
        with pytest.raises(OutboundError, match="certificate"):
            post(f"https://other.test:{port}/", b"{}", {}, timeout=PATIENCE, allow_private=True, resolve=here)
        thread.join(PATIENCE)


def test_an_address_is_said_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        port = closed.getsockname()[1]
        for host, said in (("127.0.0.1", ""), ("localhost", "localhost: ")):
            with pytest.raises(OutboundError) as caught:
                post(f"http://{host}:{port}", b"", {}, timeout=PATIENCE, allow_private=True, resolve=_here)
            assert str(caught.value) == f"ConnectError: {said}127.0.0.1: Connection refused"


def _here(_host: str, port: int, **_more: Any) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
