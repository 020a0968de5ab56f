"""How the scores on the test split are read from their log and shown."""

import json

from toprung.records.sweep_dir import SweepDirectory
from toprung.records.test_split_log import describe, last_score, scores

OPENING = {"time": "now", "loss": 0.5, "f1_macro": 0.8, "accuracy": 0.9, "num_images": 10}


def test_the_scores_start_with_the_accuracy():
    assert list(scores(OPENING).items()) == [("accuracy", 0.9), ("loss", 0.5), ("f1_macro", 0.8)]


def test_each_score_is_shown_with_its_interval_if_there_is_one():
    assert describe(OPENING) == "accuracy 0.9000, loss 0.5000, f1_macro 0.8000"
    opening = OPENING | {"intervals": {"accuracy": [0.6, 0.98], "f1_macro": [0.5, 0.96]}}
    assert describe(opening) == (
        "accuracy 0.9000 (95% interval 0.6000 to 0.9800), loss 0.5000, f1_macro 0.8000 (95% interval 0.5000 to 0.9600)"
    )


def test_an_opening_that_was_interrupted_has_no_scores():
    assert scores({"time": "now"}) == {}
    assert describe({"time": "now"}) == ""


def test_a_score_belongs_to_one_export(tmp_path):
    sweep_dir, confirmation, other = (SweepDirectory(tmp_path / name) for name in ("a", "a-confirm-1", "a-confirm-2"))
    sweep_dir.path.mkdir()
    opening = {"time": "now", "who": "a: a-confirm-1/export"}
    sweep_dir.test_log.write_text(json.dumps(opening) + "\n" + json.dumps({"scored": {"accuracy": 0.9}}) + "\n")
    assert last_score(sweep_dir, of=confirmation) == opening | {"accuracy": 0.9}
    assert last_score(sweep_dir, of=other) is None
