"""Checkpoints on storage that goes away for a moment: a shared folder, a network that is cut."""

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


def test_a_trial_waits_for_storage_that_is_away_and_then_saves(tmp_path):
    folder, away = tmp_path / "trial", tmp_path / "away"
    folder.mkdir()
    folder.rename(away)
    back = threading.Timer(1.5, away.rename, [folder])
    back.start()
    _save(folder)
    back.join()
    saved = read_last(folder)
    assert saved is not None
    assert saved.progress.epochs == 1
    assert torch.equal(saved.state["model"]["weight"], _model().weight)
    assert best_epoch(folder) == 1


def test_it_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", 0)
    with pytest.raises(FileNotFoundError):
        _save(tmp_path / "never")


def test_what_cannot_be_saved_at_all_is_told_at_once(tmp_path):
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_last(tmp_path, model=_model(), optimizer=None, schedule=_Odd(), progress=Progress())


class _Odd:
    def state_dict(self):
        return {"a": lambda: None}
