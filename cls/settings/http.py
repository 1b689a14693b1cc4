"""The tables of `cls.toml` about the outside: where CLS listens, how it answers, and whom it tells."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cls.settings.tables import Address, Count, Names, OptionalPath, Seconds, Table


class HttpConfig(Table):
    """Where the processes listen, and to whom."""

    ingest: Address = Field(
        "127.0.0.1:8710", description="host:port of the event and label inbox (cls daemon)"
    )
    serve: Address = Field("127.0.0.1:8720", description="host:port of predictions (cls serve)")
    mlflow: Address = Field(
        "127.0.0.1:5000", description="host:port of the MLflow UI that cls up and cls ui start"
    )
    require_tokens: bool = Field(
        False,
        description="ask for a token on the loopback, too; on every other address one is asked for always",
    )
    hosts: Names = Field((), description="further host names to answer to, as of a proxy before it")
    origins: Names = Field((), description='origins whose pages may call, as "https://ops.example.org"')
    requests_per_second: float | None = Field(
        None, gt=0, description="requests of one token, or one address, per second; more are answered 429"
    )
    tls_certificate: OptionalPath = Field(
        None, description="PEM file of the certificate chain, read at the start; with tls_key"
    )
    tls_key: OptionalPath = Field(
        None,
        description="PEM file of the certificate's private key; one with a passphrase is asked for at the start",
    )


class ServeConfig(Table):
    """How `cls serve` answers."""

    batch_rows: Count = Field(256, description="rows that a version predicts at once, at most")
    batch_delay_ms: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="milliseconds to wait for more rows; 0: only those that are there already",
    )
    queue_rows: Count = Field(
        20_000, description="rows that wait for a version, at most; requests beyond are answered 429"
    )
    deadline_ms: float = Field(
        1000.0,
        gt=0,
        description="milliseconds that a request may wait, else it is answered 503; and that its batch may take, else 504",
    )
    body_rows: Count = Field(20_000, description="rows of one request, at most")
    body_bytes: Count = Field(32 << 20, description="bytes of one request, at most")
    body_seconds: Seconds = Field(10.0, description="seconds within which a request must have arrived")
    runtime: Literal["auto", "eager", "onnx", "compile"] = Field(
        "auto", description="what runs a version; auto: the fastest of those whose answers are equal"
    )


class WebhookConfig(Table):
    """Whom to tell what happens."""

    url: str = Field(pattern=r"^https?://\S+$", description="where it is posted to")
    secret_env: str = Field(
        min_length=1, description="environment variable with the secret that signs the messages"
    )
    kinds: Names = Field(
        (), description='what to tell, as "rollout.promoted" or "rollout.*"; empty: everything'
    )
    streams: Names = Field((), description="streams to tell of; empty: all")
    timeout_seconds: Seconds = Field(10.0, description="seconds to wait for an answer")
    allow_private: bool = Field(False, description="allow addresses of this machine and of private networks")
