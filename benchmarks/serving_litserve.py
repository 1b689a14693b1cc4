"""LitServe with batching, in an environment of its own: see requirements-serving.txt.

PYTHON -m benchmarks.serving_litserve FOLDER PORT
"""

import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import litserve

from benchmarks.serving_network import FlightNetwork

BATCH_REQUESTS = 32
BATCH_SECONDS = 0.001


class FlightAPI(litserve.LitAPI):
    """A request is a row, or {"rows": [...]}; a batch is several requests."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - of the interface
        """Load the network in the worker's process."""
        self.network = FlightNetwork.load(Path(sys.argv[1]))

    def decode_request(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of a request."""
        return request.get("rows", [request])

    def batch(self, inputs: Sequence[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        """Return the requests as they are: each has its number of rows."""
        return list(inputs)

    def predict(self, x: list[list[dict[str, Any]]]) -> list[list[float]]:
        """Predict the rows of all requests at once."""
        minutes = iter(self.network.predict(list(chain.from_iterable(x))))
        return [list(islice(minutes, len(rows))) for rows in x]

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """Return one list per request."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """Return the answer to one request."""
        return {"predictions": output}


if __name__ == "__main__":
    api = FlightAPI(max_batch_size=BATCH_REQUESTS, batch_timeout=BATCH_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
