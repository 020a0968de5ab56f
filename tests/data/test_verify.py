"""Checks of arrays against dvc.lock."""

import numpy as np
import pytest

from toprung import data
from toprung.data.prepare.writing import write_dataset_card
from toprung.errors import UserError


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


def test_what_dvc_lock_says_is_nothing_where_it_says_nothing(tmp_path, dvc_project):
    assert data.read_lock("digits", project=tmp_path) == data.LockedHashes(None, None)
    assert data.read_lock("cifar10", project=dvc_project) == data.LockedHashes(None, None)
    locked = data.read_lock("digits", project=dvc_project)
    assert locked.raw_md5 is None
    assert str(locked.prepared_md5) in (dvc_project / "dvc.lock").read_text()
    (dvc_project / "dvc.lock").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.lock cannot be read"):
        data.read_lock("digits", project=dvc_project)
