"""The feeder: replays a recording into the HTTP inbox in lock-step, so that the result does not depend on the machine's speed.

After each slice of stream time it waits until the stream is quiet: everything taken in, scored, joined, and no job or rollout left that
falls into the past. What the machine does faster or slower then changes how long it takes, not what comes out.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import httpx
import pyarrow as pa

from cls.domain import Json
from cls.errors import Refused, Unavailable

ARROW = "application/vnd.apache.arrow.file"
PATIENCE_SECONDS = 300.0  # for one slice; an update is part of it


@dataclass
class Feeder:
    """Sends batches of one producer and knows when the stream has digested them."""

    client: httpx.Client
    stream: str
    producer: str
    sequence: int = 0

    def send(self, kind: str, table: pa.Table) -> None:
        """Post a batch; returns once it is durable. A server that is restarting is asked again: the sequence keeps it once."""
        if table.num_rows == 0:
            return
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        self.sequence += 1
        headers = {
            "Content-Type": ARROW,
            "X-CLS-Producer": self.producer,
            "X-CLS-Sequence": str(self.sequence),
        }
        until = time.monotonic() + PATIENCE_SECONDS
        answer: httpx.Response | None = None
        while answer is None:
            try:
                answer = self.client.post(
                    f"/v1/streams/{self.stream}/{kind}", content=sink.getvalue(), headers=headers
                )
            except httpx.TransportError:
                answer = None
            if answer is None or answer.status_code >= 500:
                answer = None
                if time.monotonic() > until:
                    raise Unavailable(f"the inbox does not take {kind} batch {self.sequence}")
                time.sleep(0.2)
        if answer.status_code != 202:
            raise Refused(f"the inbox refused {kind} batch {self.sequence}: {answer.text}")

    def progress(self) -> Json | None:
        """Return how far the stream has come, None while the daemon is restarting."""
        try:
            answer = self.client.get(f"/v1/streams/{self.stream}")
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.status_code == 200 else None

    def settle(self) -> Json:
        """Wait until the stream is quiet; returns its progress then."""
        until = time.monotonic() + PATIENCE_SECONDS
        progress = None
        while time.monotonic() < until:
            progress = self.progress()
            if progress is not None and quiet(progress):
                return progress
            time.sleep(0.01)
        raise Unavailable(f"stream {self.stream} does not come to rest: {progress}")


def quiet(progress: Json) -> bool:
    """Whether nothing is left to do at this stream time."""
    caught_up = progress["champion"] is None or (
        progress["watched"] == progress["scored"] == progress["events"]
        and progress["joined"] == progress["labels"]
    )
    due = [time for time in progress["rollouts_waiting"] if time <= (progress["watermark"] or "")]
    busy = progress["inbox_waiting"] or progress["live_jobs"] or progress["unhandled_jobs"] or due
    return caught_up and not busy
