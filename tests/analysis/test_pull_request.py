"""`toprung ci-report`: a verdict for the pull request, a comment for its readers, nothing a stranger can plant."""

import json
import shutil

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from toprung.analysis.pull_request import Record, Seeds, comment
from toprung.cli.ci import ci_app
from toprung.errors import UserError
from toprung.spec import Asha, Experiment

HIGH = [0.960 + 0.001 * seed for seed in range(10)]
LOW = [value - 0.05 for value in HIGH]
RECIPE = "tune.smoke:seeds"


def _seeds(values, **fields):
    given = {"recipe": RECIPE, "metric": "val/accuracy", "mode": "max", "commit": "abcdef1" * 4} | fields
    return Seeds(**given, values=dict(enumerate(values)))


@pytest.fixture
def typed(driver, workbench, monkeypatch, tmp_path):
    """Types `toprung ci-report` on a mini-sweep, a sweep of ten seeds as high as `HIGH`, and a base."""
    sweep = driver(name="smoke")
    for index in range(5):
        sweep.trial([0.5 + index / 10, 0.52 + index / 10], config={"optimizer": "adam", "lr": 0.001 * index})
    fields = {"experiments": (Experiment(name="one", config={"lr": 0.1}),), "seeds": tuple(range(10))}
    seeds = driver(name="smoke_seeds", asha=Asha(max_epochs=1), **fields)
    for seed, value in enumerate(HIGH):
        seeds.trial([value], config={"experiment": "one", "seed": seed, "lr": 0.1})
    for made in (sweep.sweep_dir, seeds.sweep_dir):
        made.write(made.spec_file, {**made.read(made.spec_file), "recipe": RECIPE})
    monkeypatch.chdir(workbench)
    out = tmp_path / "out"

    def run(*arguments, base=None):
        words = ["ci-report", *arguments]
        if not arguments:
            words += [
                sweep.sweep_dir.sweep_id,
                "--seeds",
                seeds.sweep_dir.sweep_id,
                "--storage",
                str(sweep.sweep_dir.path.parent),
            ]
        if base is not None:
            (tmp_path / "base.json").write_text(base if isinstance(base, str) else base.model_dump_json())
            words += ["--base", str(tmp_path / "base.json")]
        done = CliRunner().invoke(ci_app, [*words, "--out", str(out)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    run.out, run.sweep = out, sweep
    return run


def test_a_significant_loss_ends_with_code_1_after_everything_is_written(typed):
    better_base = _seeds([min(1.0, value + 0.02) for value in HIGH])
    done = typed(base=better_base)
    assert done.exit_code == 1
    text = (typed.out / "comment.md").read_text()
    assert "### Mini-sweep: worse than the base" in text
    assert "**Worse** (`ccccccccc` against `abcdef1ab`, 10 and 10 seeds)" in text
    assert json.loads((typed.out / "record.json").read_text())["base"]["values"]["0"] == better_base.values[0]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (_seeds(HIGH), "Every value is the same"),
        (_seeds([value + 0.0005 for value in HIGH]), "No significant difference"),
        (_seeds(LOW), "Better"),
        (None, "The base was not trained with several seeds, so nothing is compared."),
        (_seeds([], problem='No recipe "tune.smoke:seeds".'), "The base could not be trained"),
        (_seeds(HIGH[:4]), "Fewer than 5 seeds on a side say nothing"),
        (_seeds([None] * 5 + LOW[:5]), "Better"),
    ],
)
def test_anything_else_ends_with_code_0(typed, base, message):
    done = typed(base=base)
    assert done.exit_code == 0, done.stdout
    assert message in (typed.out / "comment.md").read_text()


def test_the_comment_ranks_the_trials_and_draws_the_best_so_far_and_both_sides(typed, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    typed(base=_seeds(LOW))
    done = typed("--record", str(typed.out / "record.json"), "--summary", str(summary))
    assert done.exit_code == 0
    text = (typed.out / "comment.md").read_text()
    assert summary.read_text() == "before\n" + text
    page = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert page.count("<table>") == 2
    assert "<td>1</td>\n<td>4</td>\n<td>0.9200</td>" in page
    assert page.count('<code class="language-mermaid">') == 2
    assert "line [0.5, 0.52, 0.6, 0.62, 0.7, 0.72, 0.8, 0.82, 0.9, 0.92]" in text
    assert f"line [{', '.join(f'{value:.5g}' for value in LOW)}]" in text


def test_a_record_judges_nobody(typed):
    typed(base=_seeds([min(1.0, value + 0.02) for value in HIGH]))
    done = typed("--record", str(typed.out / "record.json"))
    assert done.exit_code == 0
    assert "worse than the base" in (typed.out / "comment.md").read_text()


def test_nothing_in_a_strangers_record_is_a_link_a_picture_a_person_or_html(typed):
    typed(base=_seeds(HIGH))
    evil = "` @octocat ![x](https://example.org/x.png) <img src=x> | [y](https://example.org)\n```\n# big"
    record = json.loads((typed.out / "record.json").read_text())
    for row in record["rows"]:
        row |= {"config": evil, "ended": evil}
    record["base"] |= {"values": {}, "problem": evil}
    text = comment(Record.model_validate(record))
    page = MarkdownIt("gfm-like", {"linkify": False, "html": False}).render(text)
    for planted in ("<a ", "<img", "<h1"):
        assert planted not in page
    inside = [token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text) if token.children]
    outside_code = "".join(child.content for token in inside for child in token.children if child.type != "code_inline")
    assert "octocat" in text
    assert "octocat" not in outside_code
    assert "example.org" not in outside_code
    assert page.count("<table>") == 1


BAD = {
    "no JSON": ("{", "the whole: Invalid JSON"),
    "another file": ('{"a": 1}', "Field required"),
    "a metric that is Markdown": ({"metric": "# big"}, "metric: String should match pattern"),
    "a commit that is none": ({"ours": {"commit": "@octocat"}}, "ours.commit: String should match pattern"),
    "a value that is none": ({"ours": {"values": {"0": "nan"}}}, "ours.values.0"),
    "something more": ({"html": "<img>"}, "html: Extra inputs are not permitted"),
    "a text too long": ({"rows": [{"config": "x" * 401}]}, "rows.0.config: String should have at most 400"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_record_that_is_none_is_refused_and_nothing_is_written(typed, tmp_path, case):
    given, message = BAD[case]
    typed(base=_seeds(HIGH))
    if not isinstance(given, str):
        record = json.loads((typed.out / "record.json").read_text())
        for key, value in given.items():
            if isinstance(value, dict):
                record[key] |= value
            elif isinstance(value, list):
                record[key] = [{**record[key][0], **value[0]}]
            else:
                record[key] = value
        given = json.dumps(record)
    shutil.rmtree(typed.out)
    (tmp_path / "evil.json").write_text(given)
    with pytest.raises(UserError, match="is no record of toprung ci-report") as caught:
        typed("--record", str(tmp_path / "evil.json"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not typed.out.exists()


def test_a_record_too_large_is_not_read(typed, tmp_path):
    (tmp_path / "large.json").write_text(" " * 1_000_001)
    with pytest.raises(UserError, match="has 1000001 bytes"):
        typed("--record", str(tmp_path / "large.json"))


def test_a_metric_that_cannot_stand_in_a_comment_is_said(typed, driver):
    odd = driver(name="odd", metric="val/accuracy of top 1")
    with pytest.raises(UserError, match="cannot be told of in a comment: metric: String should match"):
        typed(odd.sweep_dir.sweep_id, "--storage", str(odd.sweep_dir.path.parent))


def test_what_does_not_fit_together_is_said(typed):
    with pytest.raises(UserError, match=r"cannot be held against tune\.other:seeds"):
        typed(base=_seeds(HIGH, recipe="tune.other:seeds"))
    with pytest.raises(UserError, match="is not one configuration with several seeds"):
        typed(typed.sweep.sweep_dir.sweep_id, "--seeds", typed.sweep.sweep_dir.sweep_id, "--storage",
              str(typed.sweep.sweep_dir.path.parent))  # fmt: skip
    with pytest.raises(UserError, match="Give a sweep or a record"):
        CliRunner().invoke(ci_app, ["ci-report"], catch_exceptions=False)
