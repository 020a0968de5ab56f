"""Reports of real ledgers: they match the ledger, need no other files, and replace older reports completely."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib.figure import Figure

from toprung.analysis.report import style, write_report
from toprung.analysis.report.data import read_report_data
from toprung.analysis.report.static_plots import draw_plots
from toprung.analysis.report.winner_panels import build_evaluation, mistakes
from toprung.analysis.report.write import build_panels
from toprung.errors import UserError
from toprung.spec import Asha


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


def test_plotly_knows_every_property_of_the_plots(written):
    for plot in _plots(written.page.read_text()).values():
        go.Figure(plot)


def test_the_confusion_matrix_shows_each_count_once():
    evaluation = build_evaluation(
        np.eye(3)[[0, 1, 0]], np.array([0, 1, 2]), np.zeros((3, 1, 2, 2), np.uint8), classes=[*"abc"]
    )
    (figure,) = mistakes(evaluation).figures
    right, wrong = go.Figure(figure.plot).data
    assert right.z == ([1, None, None], [None, 1, None], [None, None, None])
    assert wrong.z == ([None, None, None], [None, None, None], [1, None, None])


def test_the_worst_mistakes_come_first_and_every_image_is_counted():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.99, 0.01], [0.2, 0.8]])
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    evaluation = build_evaluation(probabilities, np.array([0, 1, 1, 1]), images, classes=["cat", "dog"])
    assert evaluation.counts.tolist() == [[1, 0], [2, 1]]
    assert (evaluation.num_images, evaluation.num_wrong) == (4, 2)
    assert [(mistake.label, mistake.predicted, mistake.confidence) for mistake in evaluation.worst] == [
        ("dog", "cat", 0.99),
        ("dog", "cat", 0.6),
    ]
    assert (evaluation.worst[0].image_CHW == images[2]).all()


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
