"""What `[http]` may say, what is warned of, and whom our own calls trust."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from cls.config import Config, HttpConfig
from cls.doors.addresses import host_of, is_loopback
from cls.doors.calling import token_headers, trust_of, url_of
from cls.settings.check import advise, check_config

DEPLOYED = Path(__file__).parents[4] / "deploy" / "cls.toml"


def faults(folder: Path, http: str) -> list[tuple[str, str]]:
    path = folder / "cls.toml"
    path.write_text(f"[http]\n{http}\n")
    return [(fault.place, fault.message) for fault in check_config(path)]


def warnings(folder: Path, http: str, before: str = "") -> list[str]:
    path = folder / "cls.toml"
    path.write_text(f"{before}\n[http]\n{http}\n")
    assert check_config(path) == []
    return [fault.place for fault in advise(path)]


@pytest.mark.parametrize(
    ("address", "host", "loopback"),
    [
        ("127.0.0.1:1", "127.0.0.1", True),
        ("127.255.0.9:1", "127.255.0.9", True),
        ("localhost:1", "localhost", True),
        ("LOCALHOST:1", "localhost", True),
        ("[::1]:1", "::1", True),
        ("0.0.0.0:1", "0.0.0.0", False),
        ("[::]:1", "::", False),
        ("10.0.0.1:1", "10.0.0.1", False),
        ("localhost.example.org:1", "localhost.example.org", False),
        ("128.0.0.1:1", "128.0.0.1", False),
    ],
)
def test_which_addresses_are_this_machine_alone(address: str, host: str, loopback: bool) -> None:
    assert (host_of(address), is_loopback(address)) == (host, loopback)


@pytest.mark.parametrize(
    ("http", "place", "message"),
    [
        ('tls_certificate = "c.pem"', "http.tls_key", "missing: tls_certificate alone"),
        ('tls_key = "k.pem"', "http.tls_certificate", "missing: tls_key alone"),
        ('tls_certificate = "c.pem"\ntls_key = "none.pem"', "http.tls_key", "there is no file"),
        ('origins = ["*"]', "http.origins", "must be like"),
        ('origins = ["ops.example.org"]', "http.origins", "must be like"),
        ('origins = ["https://ops.example.org/"]', "http.origins", "must be like"),
        ('origins = ["null"]', "http.origins", "must be like"),
        ('require_tokens = true\nhosts = ["cls.example.org:443"]', "http.hosts", "without a port"),
        ('require_tokens = true\nhosts = ["*"]', "http.hosts", "without a port"),
        ('require_tokens = true\nhosts = [""]', "http.hosts", "without a port"),
        ('hosts = ["cls.example.org"]', "http.hosts", "needs require_tokens"),
        ("requests_per_second = 0.0", "http.requests_per_second", ""),
    ],
)
def test_what_protects_nothing_is_a_fault(tmp_path: Path, http: str, place: str, message: str) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).touch()
    found = faults(tmp_path, http)
    assert [at for at, _ in found] == [place]
    assert message in found[0][1]


def test_what_can_be_read_on_its_way_is_warned_of(tmp_path: Path) -> None:
    sign(tmp_path, "c")
    tls = 'tls_certificate = "c.pem"\ntls_key = "c-key.pem"\n'  # relative to cls.toml
    assert warnings(tmp_path, "") == []
    assert warnings(tmp_path, 'ingest = "0.0.0.0:1"') == ["http.ingest"]
    assert warnings(tmp_path, f'{tls}ingest = "0.0.0.0:1"\nserve = "0.0.0.0:2"') == []
    assert warnings(tmp_path, f'{tls}mlflow = "0.0.0.0:3"') == ["http.mlflow"]
    assert warnings(tmp_path, 'mlflow = "0.0.0.0:3"', 'mlflow_uri = "http://mlflow:5000"') == []


def test_the_deployed_configuration_has_no_fault() -> None:
    assert check_config(DEPLOYED) == []


def sign(folder: Path, name: str) -> Config:
    """Sign a certificate by its own key, for a name that nobody calls."""
    files = folder / f"{name}.pem", folder / f"{name}-key.pem"
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    subprocess.run(
        [
            *command,
            "-subj",
            "/CN=cls.example.org",
            "-days",
            "1",
            "-out",
            str(files[0]),
            "-keyout",
            str(files[1]),
        ],
        check=True,
        capture_output=True,
    )
    return Config(http=HttpConfig(tls_certificate=files[0], tls_key=files[1]))


def shake_hands(server: Config, trust: ssl.SSLContext) -> None:
    """Do a TLS handshake in memory; raises what the client thinks of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert server.http.tls_certificate
    context.load_cert_chain(server.http.tls_certificate, server.http.tls_key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        trust.wrap_bio(down, up, server_hostname="127.0.0.1"),
        context.wrap_bio(up, down, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_our_calls_trust_our_certificate_and_no_other(tmp_path: Path) -> None:
    ours, other = sign(tmp_path, "ours"), sign(tmp_path, "other")
    shake_hands(ours, trust_of(ours))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(other, trust_of(ours))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ours, trust_of(Config()))
    assert ours.http.tls_certificate
    assert other.http.tls_certificate
    chain = (
        tmp_path / "chain.pem"
    )  # of several, the first is the door's own: those who signed it sign others, too
    chain.write_text(ours.http.tls_certificate.read_text() + other.http.tls_certificate.read_text())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(other, trust_of(Config(http=HttpConfig(tls_certificate=chain, tls_key=chain))))


def test_the_address_says_whether_there_is_tls(tmp_path: Path) -> None:
    assert url_of(Config(), "127.0.0.1:1") == "http://127.0.0.1:1"
    assert url_of(sign(tmp_path, "ours"), "127.0.0.1:1") == "https://127.0.0.1:1"


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLS_TOKEN", " cls_x_y\n")
    assert token_headers() == {"Authorization": "Bearer cls_x_y"}
    monkeypatch.setenv("CLS_TOKEN", "")
    assert token_headers() == {}
