"""Reports of real ledgers: they match the ledger, need no other files, and replace older reports completely."""

import json
import re
from html.parser import HTMLParser

import optuna
import plotly.graph_objects as go
import pytest
import torch
from matplotlib.figure import Figure

from toprung.analysis.report import style, write_report
from toprung.analysis.report.data import plain_distributions, read_report_data
from toprung.analysis.report.static_plots import draw_plots
from toprung.analysis.report.winner_evaluation import build_evaluation
from toprung.analysis.report.winner_panels import mistakes
from toprung.analysis.report.write import build_panels
from toprung.errors import UserError
from toprung.spec import Asha
from toprung.vision import ImageSplit


class _Page(HTMLParser):
    """A parser for the tags and the table rows of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self._cell, self._open = [], [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(self._cell)
            self._cell = None


def _plots(text):
    content = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)[1]
    return json.loads(content, parse_constant=pytest.fail)  # a browser does not accept NaN


def test_the_page_its_summary_and_its_pictures_are_written(reported, written):
    assert written.folder == reported.sweep_dir.path / "report"
    assert {path.name for path in written.folder.iterdir()} == {
        "report.html", "summary.md", "best-so-far.png", "learning-curves.png", "parallel-coordinates.png",
        "slices.png", "importance.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.pictures)
    summary = written.summary.read_text()
    assert all(f"({path.name})" in summary for path in written.pictures)


def test_the_pictures_show_the_traces_of_the_page(reported, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.update({path.stem: figure}))
    panels = build_panels(read_report_data(reported.sweep_dir, prepared_root=tmp_path), "not exported")
    draw_plots(panels, "not exported", folder=tmp_path)
    plots = {figure.key: figure.plot for panel in panels for figure in panel.figures}
    slices = [plot for key, plot in plots.items() if key.startswith("slice-")]
    shown = [plots["history"], plots["learning-curves"], *slices]
    names = ("best-so-far", "learning-curves", "slices")
    axes = [axes for name in names for axes in drawn[name].axes]
    for plot, subplot in zip(shown, axes, strict=True):
        points = [(list(line.get_xdata()), list(line.get_ydata())) for line in subplot.lines]
        assert points == [(trace["x"], trace["y"]) for trace in plot["data"]]
    augment = next(subplot for subplot in axes if subplot.get_xlabel() == "augment")
    assert [label.get_text() for label in augment.get_xticklabels()] == ["none", "light"]
    (lines,) = drawn["parallel-coordinates"].axes[0].collections
    assert len(lines.get_segments()) == 31  # all but the failed trial


def test_the_numbers_match_the_ledger(reported, written):
    text = written.page.read_text()
    trials = reported.read()
    page, plots = _Page(text), _plots(text)
    ranking = [row for row in page.rows if row[:1] == ["1"] and len(row) == 6]
    best = max((trial for trial in trials if trial.status != "failed"), key=lambda trial: trial.value)
    assert ranking[0][1:5] == [str(best.number), f"{best.value:.4f}", str(best.epoch), "finished"]
    curves = plots["learning-curves"]["data"]
    drawn = {
        (number, epoch, value)
        for trace in curves[:-2]  # the last two show winner and default again
        for number, epoch, value in zip(trace["customdata"], trace["x"], trace["y"], strict=True)
        if number is not None
    }
    assert drawn == {
        (trial.number, number, epoch.metrics["val/accuracy"])
        for trial in trials
        for number, epoch in trial.epochs_by_number.items()
    }
    assert {trace["name"] for trace in curves} >= {"stopped at rung 1 (10)", "finished (20)", "failed (1)"}
    assert ["all", "32", "192", *(row := next(row for row in page.rows if row[:1] == ["all"]))[3:]] == row


def test_every_panel_has_a_heading_and_a_link(written):
    page = _Page(written.page.read_text())
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    links = [attributes["href"].removeprefix("#") for tag, attributes in page.tags if tag == "a"]
    assert sections == [
        "result", "confirmation", "best-so-far", "learning-curves", "importance", "optimizer-panels", "slices",
        "parallel-coordinates", "gap", "mistakes", "asha-audit", "time-and-money", "failures", "lineage",
    ]  # fmt: skip
    assert links == ["main", *sections]
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    assert sum(tag == "h2" for tag, _ in page.tags) == len(sections)
    plots = [attributes for _, attributes in page.tags if "data-plot" in attributes]
    assert len(plots) >= 14
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_the_page_loads_nothing_and_escapes_text_from_trials(written):
    text = written.page.read_text()
    page = _Page(text)
    sources = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert not any(tag in ("link", "iframe", "b") for tag, _ in page.tags)
    assert "loss is NaN &lt;/script&gt;&lt;b&gt;" in text
    assert len(_plots(text)) >= 14


def test_the_cost_uses_the_recipes_prices(reported, written):
    page = _Page(written.page.read_text())
    seconds = sum(trial.seconds for trial in reported.read())
    row = next(row for row in page.rows if row[:1] == ["all"])
    assert row[-1] == f"{seconds:.4f}"  # one CPU at 3600 per hour costs 1 per second


def test_a_new_report_replaces_all_files_of_the_old_one(reported, written, tmp_path):
    folder = written.folder
    (folder / "stale.png").write_text("")
    write_report(reported.sweep_dir, prepared_root=tmp_path)
    assert not (folder / "stale.png").exists()
    assert not [path.name for path in reported.sweep_dir.path.iterdir() if path.name.startswith(".report")]


def test_panels_without_data_say_why(driver, tmp_path):
    sweep = driver(metric="val/loss", mode="min")
    sweep.trial([0.5, 0.6], is_default=True)
    text = write_report(sweep.sweep_dir, prepared_root=tmp_path).page.read_text()
    for line in (
        "Not available: only 1 trial finished, and at least 15 are needed.",
        "The winner was not exported: its mistakes cannot be shown.",
        "Not available: the trials have no hyperparameter lr.",
        "Not available: the trials have no hyperparameter in common.",
        "No cost: the recipe sets no price",
        "No trial failed.",
    ):
        assert line in text
    assert "Best val/loss: 0.4000 (trial 0, epoch 2)." in text


def test_a_sweep_without_a_finished_epoch_cannot_be_reported(driver, tmp_path):
    sweep = driver()
    sweep.trial([], status="running")
    with pytest.raises(UserError, match="nothing to report yet"):
        write_report(sweep.sweep_dir, prepared_root=tmp_path)
    assert not (sweep.sweep_dir.path / "report").exists()


def test_a_loss_that_is_not_a_number_is_left_out_of_the_plots(driver, tmp_path):
    sweep = driver()
    sweep.trial([0.5, 0.6], losses=[(1.0, float("nan")), (0.5, float("inf"))])
    plots = _plots(write_report(sweep.sweep_dir, prepared_root=tmp_path).page.read_text())
    assert [trace["y"] for trace in plots["gap-winner"]["data"]] == [[1.0, 0.5], [None, None]]


@pytest.mark.parametrize(("config", "titles"), [({"augment": "light"}, ["augment: light"]), ({}, [])])
def test_trials_without_augmentation_have_no_title_for_it(driver, tmp_path, config, titles):
    sweep = driver()
    sweep.trial([0.5], config={"lr": 0.1, **config})
    plots = _plots(write_report(sweep.sweep_dir, prepared_root=tmp_path).page.read_text())
    assert [note["text"] for note in plots["optimizer-panels"]["layout"].get("annotations", [])] == titles


def test_plotly_knows_every_property_of_the_plots(written):
    for plot in _plots(written.page.read_text()).values():
        go.Figure(plot)


def _evaluation(predicted, labels, *, classes, confidences=None):
    """Evaluate predictions that all have a high confidence, or the given ones."""
    num_classes = len(classes)
    confidences = torch.tensor(confidences or [0.99] * len(labels), dtype=torch.float64)
    probabilities_NK = ((1 - confidences) / (num_classes - 1))[:, None].repeat(1, num_classes)
    probabilities_NK[torch.arange(len(labels)), predicted] = confidences
    images_NCHW = torch.arange(len(labels) * 12, dtype=torch.uint8).reshape(len(labels), 3, 2, 2)
    return build_evaluation(probabilities_NK.log(), ImageSplit(images_NCHW, torch.tensor(labels)), classes=classes)


def test_the_confusion_matrix_shows_the_share_of_each_true_class_once():
    evaluation = _evaluation([0, 1, 0, 2], [0, 1, 2, 2], classes=[*"abcd"])
    confusion, _ = mistakes(evaluation).figures
    right, wrong = go.Figure(confusion.plot).data
    nothing = (None,) * 4
    assert [tuple(row) for row in right.z] == [
        (100, None, None, None),
        (None, 100, None, None),
        (None, None, 50, None),
        nothing,
    ]
    assert [tuple(row) for row in wrong.z] == [nothing, nothing, (50, None, None, None), nothing]
    assert right.customdata[2][0] == 1


def test_the_worst_mistakes_of_each_class_come_first_and_every_image_is_counted():
    confidences = [0.9, 0.6, 0.99, 0.8, 0.7]
    evaluation = _evaluation([0, 0, 0, 1, 1], [0, 1, 1, 1, 0], classes=["cat", "dog"], confidences=confidences)
    assert evaluation.counts.tolist() == [[1, 1], [2, 1]]
    assert (evaluation.num_images, evaluation.num_wrong) == (5, 3)
    found = [(mistake.label, mistake.predicted, round(mistake.confidence, 9)) for mistake in evaluation.mistakes]
    assert found == [("dog", "cat", 0.99), ("dog", "cat", 0.6), ("cat", "dog", 0.7)]  # dogs have the lower recall
    assert evaluation.mistakes[0].image_CHW.flatten().tolist() == [*range(24, 36)]


def test_no_class_fills_the_pictures_with_its_mistakes():
    evaluation = _evaluation([1] * 9 + [0], [0] * 9 + [1], classes=["cat", "dog"])
    assert [mistake.label for mistake in evaluation.mistakes] == ["cat"] * 3 + ["dog"]


def test_the_table_of_the_classes_has_their_scores_and_a_dash_where_there_is_none():
    table, _ = mistakes(_evaluation([0, 1, 0, 2], [0, 1, 2, 2], classes=[*"abcd"])).tables
    assert table.rows == [
        ["c", "2", "0.5000", "1.0000", "0.6667"],
        ["a", "1", "1.0000", "0.5000", "0.6667"],
        ["b", "1", "1.0000", "1.0000", "1.0000"],
        ["d", "0", "–", "–", "–"],
    ]


def test_the_reliability_diagram_has_the_accuracy_of_each_bin_with_images():
    panel = mistakes(_evaluation([0, 0, 0], [0, 1, 0], classes=["cat", "dog"], confidences=[0.62, 0.65, 0.98]))
    _, reliability = panel.figures
    bars, diagonal = go.Figure(reliability.plot).data
    assert list(bars.x) == pytest.approx([9.5 / 15, 14.5 / 15])
    assert list(bars.y) == [0.5, 1.0]
    assert [tuple(pair) for pair in bars.customdata] == [(2, pytest.approx(0.635)), (1, pytest.approx(0.98))]
    assert (tuple(diagonal.x), tuple(diagonal.y)) == ((0, 1), (0, 1))
    assert "Expected calibration error: 0.0967." in " ".join(panel.text)  # (2 * 0.135 + 0.02) / 3


def test_the_toolbar_of_a_plot_appears_on_hover_and_uploads_nothing(written):
    (config,) = re.findall(r"const config = \{.*?\};", written.page.read_text(), re.DOTALL)
    assert 'displayModeBar: "hover"' in config
    assert "showSendToCloud: false" in config


def test_one_trial_of_one_epoch_is_reported_in_the_singular(driver, tmp_path):
    sweep = driver(asha=Asha(grace_epochs=1, max_epochs=1))
    sweep.trial([0.5], is_default=True)
    report = write_report(sweep.sweep_dir, prepared_root=tmp_path)
    text = report.summary.read_text()
    assert "1 trial (1 finished), 1 epoch. Best val/accuracy: 0.5000 (trial 0, epoch 1)." in text
    assert "The full budget is 1 epoch." in text
    assert not re.search(r"\b1 (trials|epochs|seeds|images|groups|classes)\b", text + report.page.read_text())


@pytest.mark.parametrize("background", [style.LIGHT_BACKGROUND, style.DARK_BACKGROUND])
def test_every_colour_has_enough_contrast_on_both_backgrounds(background):
    assert min(style.contrast(colour, background) for colour in style.PALETTE) >= 3


def test_the_ranges_of_a_name_may_differ_between_trials_and_even_in_kind():
    def trial(name, distribution, value):
        return optuna.trial.create_trial(value=1.0, params={name: value}, distributions={name: distribution})

    wide, narrow = (optuna.distributions.FloatDistribution(low, 1, log=True) for low in (1e-5, 1e-3))
    lr = plain_distributions([trial("lr", narrow, 0.1), trial("lr", wide, 2e-5), trial("sgd.lr", narrow, 0.1)])
    assert lr == {"lr": wide}
    choices = optuna.distributions.CategoricalDistribution([0.1, 0.2])
    mixed = plain_distributions([trial("sgd.lr", choices, 0.1), trial("adam.lr", narrow, 0.03)])
    assert mixed == {"lr": optuna.distributions.CategoricalDistribution([0.1, 0.2, 0.03])}
