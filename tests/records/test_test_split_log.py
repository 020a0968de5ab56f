"""How the scores on the test split are read from their log and shown."""

from toprung.records.test_split_log import describe, scores

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
