"""Finding and creating experiments, runs and datasets on an MLflow server that other sweeps use at the same time."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException

from toprung.tracking.errors import RequestRejected, http_status

RUNS_PER_PAGE = 1000


def find_or_create_experiment(
    client: MlflowClient, name: str, *, artifact_location: str | None, tags: dict[str, str]
) -> str:
    """Return the id of an experiment, which is created if there is none of this name.

    Raises:
        RequestRejected: the experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location, tags=tags))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another sweep was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise RequestRejected(f'the experiment "{name}" was deleted; restore it, or give the recipe another name')
    return str(experiment.experiment_id)


def search_runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """Return all runs of an experiment that match MLflow's `filter_string`, oldest first."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            query,
            max_results=RUNS_PER_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def log_dataset(client: MlflowClient, run_id: str, dataset: DatasetInput) -> None:
    """Log a dataset as a run's input.

    MLflow looks the dataset up and then adds it. It refuses if another sweep adds it in between; a second call finds
    it.
    """
    try:
        client.log_inputs(run_id, datasets=[dataset])
    except MlflowException as error:
        if http_status(error) >= 500:
            raise
        client.log_inputs(run_id, datasets=[dataset])
