"""Checks of arrays against dvc.lock, and of a dataset and its split against those of a sweep."""

import numpy as np
import pytest

from toprung import data
from toprung.data.prepare.writing import write_dataset_card
from toprung.errors import UserError
from toprung.spec import Data


def test_arrays_that_do_not_match_dvc_lock_are_refused_though_their_card_agrees(dvc_project, tmp_path):
    data.reproduce("digits", project=dvc_project)
    root = dvc_project / data.PREPARED
    dataset_dir = root / "digits"
    card = data.open_prepared("digits", root=root).card
    images = np.load(dataset_dir / "train_images.npy")
    images[0] = 255 - images[0]
    for name in ("train_images.npy", "card.json"):
        (dataset_dir / name).unlink()  # DVC's files are read-only
    np.save(dataset_dir / "train_images.npy", images)
    fields = ("name", "augmentations", "source", "test_split")
    write_dataset_card(dataset_dir, classes=card.classes, **{field: getattr(card, field) for field in fields})
    assert data.verify("digits", root=root).name == "digits"
    with pytest.raises(UserError) as caught:
        data.verify("digits", root=root, project=dvc_project)
    assert "data/prepared/digits does not match dvc.lock (modified)" in str(caught.value)
    assert "dvc checkout data/prepared/digits" in str(caught.value)


def test_a_dataset_that_changed_between_sweep_and_resume_is_refused(root):
    data_settings = Data(name="digits")
    began = data.open_prepared("digits", root=root).card.fingerprint
    _, split = data.split_arrays(data_settings, root=root)
    data.check_unchanged(data_settings, root=root, data_fingerprint=began, split_fingerprint=split)
    with pytest.raises(UserError, match="The dataset digits is not the one that this sweep started with"):
        data.check_unchanged(data_settings, root=root, data_fingerprint="0" * 64, split_fingerprint=split)
    for other in (Data(name="digits", split_seed=1), Data(name="digits", max_train=100)):
        with pytest.raises(UserError, match="The split of digits is not the one that this sweep started with"):
            data.check_unchanged(other, root=root, data_fingerprint=began, split_fingerprint=split)


def test_what_dvc_lock_says_is_nothing_where_it_says_nothing(tmp_path, dvc_project):
    assert data.read_lock("digits", project=tmp_path) == data.LockedHashes(None, None)
    assert data.read_lock("cifar10", project=dvc_project) == data.LockedHashes(None, None)
    locked = data.read_lock("digits", project=dvc_project)
    assert locked.raw_md5 is None
    assert str(locked.prepared_md5) in (dvc_project / "dvc.lock").read_text()
    (dvc_project / "dvc.lock").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.lock cannot be read"):
        data.read_lock("digits", project=dvc_project)
