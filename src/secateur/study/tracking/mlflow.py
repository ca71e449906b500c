"""MLflow: a run in the experiment `secateur`, on the server that MLFLOW_TRACKING_URI names.

MLFLOW_EXPERIMENT_NAME names another experiment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from secateur.study.tracking import Figure, Followed
from secateur.study.tracking.figures import batches
from secateur.version import VERSION

NEEDS = "mlflow"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # of a request


class Run:
    """See `Tracker`."""

    def __init__(self, client: Any, run: str) -> None:
        self._client, self.run = client, run
        self._entities: Any = import_module("mlflow.entities")

    def parameters(self, values: Mapping[str, str]) -> None:
        """As `Tracker.parameters`."""
        given = [self._entities.Param(name, value) for name, value in values.items()]
        for at in range(0, len(given), _MOST_PARAMETERS):
            self._client.log_batch(self.run, params=given[at : at + _MOST_PARAMETERS])

    def figures(self, figures: Iterable[Figure]) -> None:
        """As `Tracker.figures`."""
        now = int(1000 * time.time())
        for some in batches(list(figures), _MOST_METRICS):
            metrics = [self._entities.Metric(name, value, now, at) for name, value, at in some]
            self._client.log_batch(self.run, metrics=metrics)

    def artifact(self, path: Path) -> None:
        """As `Tracker.artifact`."""
        self._client.log_artifact(self.run, str(path))

    def close(self, *, done: bool) -> None:
        """As `Tracker.close`."""
        self._client.set_terminated(self.run, "FINISHED" if done else "KILLED")


def connect(study: Followed, run: str | None) -> Run:
    """Return the run that a study had, or a new one."""
    # Standard output is for what the command says, or for one object of JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    client = import_module("mlflow.tracking").MlflowClient()
    failed = import_module("mlflow.exceptions").MlflowException
    if run is not None:
        try:
            if client.get_run(run).info.lifecycle_stage == "active":
                client.update_run(run, status="RUNNING")
                return Run(client, run)
        except failed as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # as it does on another server
                raise
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "secateur"
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {"secateur.study": study.address, "secateur.version": VERSION}
    made = client.create_run(number, run_name=f"{study.name} {study.address[:12]}", tags=tags)
    return Run(client, made.info.run_id)
