"""Checkpoints on storage that is briefly unavailable, such as a shared folder on a network that is down."""

import threading

import pytest
import torch
from torch import nn

from toprung.records import checkpoint
from toprung.records.checkpoint import Progress, best_epoch, read_last, save_best, save_last


def _model():
    torch.manual_seed(1)
    return nn.Linear(3, 2)


def _save(folder):
    save_last(folder, model=_model(), optimizer=None, schedule=None, progress=Progress(epochs=1))
    save_best(folder, model=_model(), meta={"epoch": 1})


def test_a_trial_waits_for_unavailable_storage_and_then_saves(tmp_path):
    folder, moved = tmp_path / "trial", tmp_path / "moved"
    folder.mkdir()
    folder.rename(moved)
    timer = threading.Timer(1.5, moved.rename, [folder])
    timer.start()
    _save(folder)
    timer.join()
    saved = read_last(folder)
    assert saved is not None
    assert saved.progress.epochs == 1
    assert torch.equal(saved.state["model"]["weight"], _model().weight)
    assert best_epoch(folder) == 1


def test_a_trial_does_not_wait_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", 0)
    with pytest.raises(FileNotFoundError):
        _save(tmp_path / "never")


def test_a_state_that_cannot_be_saved_is_an_error_at_once(tmp_path):
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_last(tmp_path, model=_model(), optimizer=None, schedule=_Unpicklable(), progress=Progress())


class _Unpicklable:
    def state_dict(self):
        return {"a": lambda: None}
