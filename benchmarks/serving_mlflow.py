"""The network as an MLflow model from code, without pickle: what `mlflow models serve` serves.

python -m benchmarks.serving_mlflow FOLDER MODEL     saves the model of a folder to MODEL
"""

import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from benchmarks.serving_network import FlightNetwork


class FlightModel(mlflow.pyfunc.PythonModel):
    """Rows in a frame to a list of minutes."""

    def load_context(self, context: Any) -> None:
        """Load the network."""
        self.network = FlightNetwork.load(Path(context.artifacts["network"]))

    def predict(self, context: Any, model_input: pd.DataFrame) -> list[float]:  # noqa: ARG002 - of the interface
        """Return minutes."""
        frame = model_input.astype(object).where(model_input.notna(), None)
        return self.network.predict(frame.to_dict("records"))


if __name__ == "__main__":
    mlflow.pyfunc.save_model(
        sys.argv[2],
        python_model=__file__,
        artifacts={"network": sys.argv[1]},
        pip_requirements=["mlflow", "torch"],
    )
else:
    mlflow.models.set_model(FlightModel())
