"""Plain FastAPI, pydantic and torch: what one writes in an afternoon, with nothing left out that makes it fast.

    python -m benchmarks.serving_fastapi FOLDER PORT

One process on uvicorn with uvloop and httptools; the network is run in the event loop, for a thread would cost more than it takes.
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving_network import FlightNetwork


class Flight(BaseModel):
    """One row."""

    id: str
    time: str
    sched_dep: float | None
    sched_block: float | None
    weekday: float | None
    distance: float | None
    temp: float | None
    dewp: float | None
    humid: float | None
    wind_u: float | None
    wind_v: float | None
    wind_gust: float | None
    precip: float | None
    pressure: float | None
    visib: float | None
    carrier: str | None
    origin: str | None
    dest: str | None


class Minutes(BaseModel):
    """The answer to one row."""

    prediction: float


class ManyMinutes(BaseModel):
    """The answer to several."""

    predictions: list[float]


def application(network: FlightNetwork) -> FastAPI:
    """Return the application."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(flight: Flight) -> Minutes:
        return Minutes(prediction=network.predict([flight.__dict__])[0])

    @app.post("/predict_many")
    async def predict_many(flights: list[Flight]) -> ManyMinutes:
        return ManyMinutes(predictions=network.predict([flight.__dict__ for flight in flights]))

    return app


if __name__ == "__main__":
    app = application(FlightNetwork.load(Path(sys.argv[1])))
    uvicorn.run(
        app, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
