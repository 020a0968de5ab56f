"""Train a recorded trial again in a fresh process, without Ray, and print what it reports as JSON lines.

The session is opened as in the trial's own process (`run.train_in_session`): the same images, seed, number of threads,
budget and metrics. The loop comes from the sweep's copy of the project, which must be first on the path. After the
exported epoch, the weights are compared with the exported ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from toprung.session import Session

Emit = Callable[[dict[str, Any]], object]


class StopTraining(BaseException):
    """Ends the loop after the last epoch that the trial reported; a loop's `except Exception` does not catch it."""


def retrain(task: dict[str, Any], emit: Emit) -> None:
    """Train the recorded epochs again, and pass each report to `emit`.

    Args:
        task: `code` (the copy of the project), `project`, `trainer`, `data`, `num_repeats`, `split_index`, `seed`,
            `num_threads`, `num_gpus`, `metric`, `mode`, `metrics`, `folder` (for checkpoints), `weights_file` and
            `weights_epoch` (to compare with), and `parts`: the configuration and the last epoch of each budget that the
            trial was trained with, one after another.
        emit: called with {"epoch", "metrics"} for each epoch, and with {"tensors"}, the result of `compare_tensors`.

    Raises:
        UserError: the data, the pretrained weights or the trainer cannot be used.
        toprung.session.TrainingFailed: the training cannot continue.
    """
    from toprung import data, session
    from toprung.data.placement import map_arrays
    from toprung.project.code_hash import link_included
    from toprung.project.modules import activate, import_dotted, trainer_defaults
    from toprung.spec import Data
    from toprung.trial.inputs import trial_data
    from toprung.trial.run import LOOP, check_gpu
    from toprung.weights import open_weights

    code, project = Path(task["code"]), Path(task["project"])
    data_settings, root = Data.model_validate(task["data"]), project / data.PREPARED
    activate(code)
    link_included(Path.cwd())
    if task["num_gpus"]:
        check_gpu(task["num_gpus"])
    placed = map_arrays(data_settings, root=root, num_repeats=task["num_repeats"], split_index=task["split_index"])
    inputs = trial_data(
        placed.arrays,
        card=data.open_prepared(data_settings.name, root=root).card,
        mmap_dir=placed.mmap_dir,
        split_fingerprint=placed.split_fingerprint,
    )
    loop = import_dotted(code, task["trainer"], default=LOOP, kind="trainer")
    defaults = trainer_defaults(code, task["trainer"])
    for part in task["parts"]:
        trial_session = session.Session(
            data=inputs,
            folder=Path(task["folder"]),
            on_report=_discard,
            seed=task["seed"],
            num_threads=task["num_threads"],
            metric=task["metric"],
            mode=task["mode"],
            metrics=tuple(task["metrics"]),
            num_epochs=part["config"]["num_epochs"],
            load_weights=partial(open_weights, project=project),
            features_folder=None,  # so that features are computed again
        )
        trial_session.on_report = partial(_report, trial_session=trial_session, task=task, part=part, emit=emit)
        with contextlib.suppress(StopTraining), session.open_session(trial_session):
            loop({**defaults, **part["config"]})


def _report(
    metrics: dict[str, float], *, trial_session: Session, task: dict[str, Any], part: dict[str, Any], emit: Emit
) -> None:
    """Pass on an epoch's metrics, compare the weights if this epoch was exported, and end the loop after the last."""
    import torch

    epoch = metrics["epoch"]
    emit({"epoch": epoch, "metrics": metrics})
    if epoch == task["weights_epoch"]:
        assert trial_session.state is not None
        recorded = torch.load(task["weights_file"], map_location="cpu", weights_only=True)
        emit({"tensors": compare_tensors(recorded, trial_session.state.exported.state_dict())})
    if epoch >= part["last_epoch"]:
        raise StopTraining


def _discard(metrics: dict[str, float]) -> None:
    raise AssertionError(f"reported before the training began: {metrics}")


def compare_tensors(recorded: dict[str, Tensor], retrained: dict[str, Tensor]) -> dict[str, Any]:
    """Compare two state dicts bit for bit.

    Returns:
        `count`, the number of recorded tensors; `differing`, the names of those that are not identical;
        `largest`, the largest absolute difference, with the `name` of its tensor.
    """
    import torch

    differing, largest, name_of_largest = [], 0.0, ""
    for name in dict.fromkeys([*recorded, *retrained]):
        one, other = recorded.get(name), retrained.get(name)
        if one is not None and other is not None and one.shape == other.shape and one.dtype == other.dtype:
            one, other = one.cpu().contiguous().reshape(-1), other.detach().cpu().contiguous().reshape(-1)
            if torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
                continue
            difference = (one.double() - other.double()).abs().max().item()
            if difference > largest:
                largest, name_of_largest = difference, name
        differing.append(name)
    return {"count": len(recorded), "differing": differing, "largest": largest, "name": name_of_largest}


def main() -> None:
    """Run the task in the file that the first argument names; end when the parent, which keeps stdin open, ends."""
    from toprung.trial.failure import describe_failure

    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the loop prints must not mix with the results
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def emit(event: dict[str, Any]) -> None:
        output.write(json.dumps(event) + "\n")
        output.flush()

    try:
        retrain(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), emit)
    except Exception as error:
        emit({"failure": describe_failure(error)["cause"].removeprefix("UserError: ")})


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, which a thread that reads it would lock when this process ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
