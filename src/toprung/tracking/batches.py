"""Log metrics, parameters and tags in as few requests as MLflow allows, without losing the rest to a refused item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from toprung.tracking.errors import RequestRejected, translate_errors

Item: TypeAlias = Metric | Param | RunTag

MAX_PER_BATCH = {Metric: 1000, Param: 100, RunTag: 100}  # MLflow's limits
KINDS = {Metric: "metric", Param: "parameter", RunTag: "tag"}
REJECTED = "toprung.rejected"  # the tag that lists what MLflow refused of a run
MAX_SHOWN = 10  # items in that tag, whose length MLflow limits to some thousand characters


class RunLog:
    """Logs to runs. What MLflow refuses is listed in a tag of the run, and not sent again."""

    def __init__(self, client: MlflowClient) -> None:
        """Start with nothing refused.

        Args:
            client: a client of the server.
        """
        self._client = client
        self._rejected: dict[str, dict[str, str]] = {}
        self._unsaved: set[str] = set()  # runs whose tag is out of date

    def log(self, run_id: str, items: Iterable[Item]) -> None:
        """Log everything that MLflow accepts.

        Args:
            run_id: the run.
            items: metrics, parameters and tags.

        Raises:
            ServerUnavailable: the server did not answer.
            RequestRejected: nothing can be logged to this run.
        """
        known = self._rejected.get(run_id, {})
        new = [item for item in items if _name(item) not in known]
        refused: dict[str, str] = {}
        for kind, size in MAX_PER_BATCH.items():
            batch = [item for item in new if isinstance(item, kind)]
            for start in range(0, len(batch), size):
                refused |= self._log(run_id, batch[start : start + size])
        self.record_rejected(run_id, refused)

    def _log(self, run_id: str, items: Sequence[Item]) -> dict[str, str]:
        """Log a batch, halving it until only refused items are left; return the reasons by item name."""
        try:
            with translate_errors():
                self._client.log_batch(
                    run_id,
                    metrics=[item for item in items if isinstance(item, Metric)],
                    params=[item for item in items if isinstance(item, Param)],
                    tags=[item for item in items if isinstance(item, RunTag)],
                )
        except RequestRejected as error:
            with translate_errors():  # a deleted run refuses everything
                if self._client.get_run(run_id).info.lifecycle_stage != "active":
                    raise
            if len(items) == 1:
                return {_name(items[0]): str(error)}
            middle = len(items) // 2
            return self._log(run_id, items[:middle]) | self._log(run_id, items[middle:])
        return {}

    def record_rejected(self, run_id: str, refused: Mapping[str, str]) -> None:
        """List what MLflow refused of a run in the run's tag, so that the run does not look complete.

        Args:
            run_id: the run.
            refused: the reasons by item name.
        """
        known = self._rejected.get(run_id, {})
        if not refused.keys() <= known.keys():
            known = self._rejected[run_id] = {**known, **refused}
            self._unsaved.add(run_id)
        if run_id not in self._unsaved:
            return
        shown = {name[:100]: reason[:300] for name, reason in list(known.items())[:MAX_SHOWN]}
        if len(known) > MAX_SHOWN:
            shown["..."] = f"{len(known) - MAX_SHOWN} more"
        with translate_errors():
            self._client.set_tag(run_id, REJECTED, json.dumps(shown, ensure_ascii=False))
        self._unsaved.discard(run_id)

    def read(self, run: Run) -> None:
        """Read from a run's tag what an earlier driver recorded as refused."""
        try:
            content = json.loads(run.data.tags.get(REJECTED, "{}"))
            earlier = {str(name): str(reason) for name, reason in content.items()}
        except (ValueError, AttributeError):  # edited by hand
            earlier = {"...": "its tag cannot be read"}
        self._rejected[run.info.run_id] = {**earlier, **self._rejected.get(run.info.run_id, {})}

    def rejected(self, run_id: str) -> list[str]:
        """Return a line for each item of a run that MLflow refused, with the reason."""
        return [f"{name[:100]}: {reason}" for name, reason in self._rejected.get(run_id, {}).items()]


def _name(item: Item) -> str:
    return f"{KINDS[type(item)]} {item.key}"
