"""MLflow: a server, a database or a folder."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from supermask.errors import MissingExtraError
from supermask.lab.trackers.protocol import TrackedRun

_TAG = "supermask.run"
_AT_ONCE = 100  # parameters that MLflow takes in one call
_LONGEST = 5000  # characters that its servers take of a value


class MLflow:
    """Tells MLflow, without its global state: several runs are open at once.

    Args:
        target: Tracking URI; by default what MLflow itself takes (`MLFLOW_TRACKING_URI`).

    Raises:
        MissingExtraError: MLflow is not installed.
    """

    def __init__(self, target: str | None) -> None:
        try:
            from mlflow.entities import Metric, Param, RunTag
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtraError("mlflow-skinny", "mlflow", "--track mlflow") from error
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._new_client = MlflowClient
        self._target = target
        self._client: Any = None  # made at the first run: it may reach out to a server
        self._open: dict[str, str] = {}  # run id -> id of MLflow

    def start(self, run: TrackedRun) -> None:
        """Make a run with its settings as parameters, or go on with the one that has its id as a tag."""
        if run.id in self._open:
            return
        if self._client is None:
            self._client = self._new_client(tracking_uri=self._target)
        known = self._client.get_experiment_by_name(run.experiment)
        place = self._client.create_experiment(run.experiment) if known is None else known.experiment_id
        found = self._client.search_runs([place], filter_string=f"tags.`{_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._open[run.id] = found[0].info.run_id
            self._client.update_run(self._open[run.id], status="RUNNING")
            return
        tags = {_TAG: run.id, "supermask.label": run.label, "supermask.seed": str(run.seed)}
        self._open[run.id] = self._client.create_run(place, tags=tags, run_name=run.name).info.run_id
        params = iter([self._param(key, str(value)[:_LONGEST]) for key, value in run.settings.items()])
        while batch := list(itertools.islice(params, _AT_ONCE)):
            self._client.log_batch(self._open[run.id], params=batch)

    def epoch(self, run: TrackedRun, epoch: int, values: Mapping[str, float]) -> None:
        """Metrics with the epoch as their step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(key, value, now, epoch) for key, value in values.items()]
        self._client.log_batch(self._open[run.id], metrics=metrics)

    def end(self, run: TrackedRun, error: str | None) -> None:
        """Finished or failed; the reason is a tag."""
        known = self._open.pop(run.id)
        if error is not None:
            self._client.log_batch(known, tags=[self._tag("supermask.error", error[:_LONGEST])])
        self._client.set_terminated(known, "FINISHED" if error is None else "FAILED")

    def close(self) -> None:
        """Runs that were stopped are marked as killed."""
        while self._open:
            self._client.set_terminated(self._open.popitem()[1], "KILLED")
