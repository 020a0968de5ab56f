"""`toprung ci-report`: the verdict and the comment for a pull request, also from untrusted records."""

import json
import shutil

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from toprung.analysis.pull_request import Record, Seeds, comment
from toprung.cli.ci import app
from toprung.errors import UserError
from toprung.spec import Asha, Experiment

HIGH = [0.960 + 0.001 * seed for seed in range(10)]
LOW = [value - 0.05 for value in HIGH]
RECIPE = "tune.smoke:seeds"


def _seeds(values, **fields):
    defaults = {"recipe": RECIPE, "metric": "val/accuracy", "mode": "max", "commit": "abcdef1" * 4}
    return Seeds(**(defaults | fields), values=dict(enumerate(values)))


@pytest.fixture
def run_cli(driver, user_project, monkeypatch, tmp_path):
    """Run `toprung ci-report` on a mini-sweep, a sweep of ten seeds with the values `HIGH`, and a base."""
    sweep = driver(name="smoke")
    for index in range(5):
        sweep.trial([0.5 + index / 10, 0.52 + index / 10], config={"optimizer": "adam", "lr": 0.001 * index})
    fields = {"experiments": (Experiment(name="one", config={"lr": 0.1}),), "seeds": tuple(range(10))}
    seeds = driver(name="smoke_seeds", asha=Asha(max_epochs=1), **fields)
    for seed, value in enumerate(HIGH):
        seeds.trial([value], config={"experiment": "one", "seed": seed, "lr": 0.1})
    for sweep_dir in (sweep.sweep_dir, seeds.sweep_dir):
        sweep_dir.write(sweep_dir.spec_file, {**sweep_dir.read(sweep_dir.spec_file), "recipe": RECIPE})
    monkeypatch.chdir(user_project)
    out = tmp_path / "out"

    def run(*arguments, base=None):
        command = ["ci-report", *arguments]
        if not arguments:
            command += [
                sweep.sweep_dir.sweep_id,
                "--seeds",
                seeds.sweep_dir.sweep_id,
                "--storage",
                str(sweep.sweep_dir.path.parent),
            ]
        if base is not None:
            (tmp_path / "base.json").write_text(base if isinstance(base, str) else base.model_dump_json())
            command += ["--base", str(tmp_path / "base.json")]
        result = CliRunner().invoke(app, [*command, "--out", str(out)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    run.out, run.sweep = out, sweep
    return run


def test_a_significant_loss_exits_with_code_1_after_writing_all_files(run_cli):
    better_base = _seeds([min(1.0, value + 0.02) for value in HIGH])
    result = run_cli(base=better_base)
    assert result.exit_code == 1
    text = (run_cli.out / "comment.md").read_text()
    assert "### Mini-sweep: worse than the base" in text
    assert "**Worse** (`ccccccccc` against `abcdef1ab`, 10 and 10 seeds)" in text
    assert json.loads((run_cli.out / "record.json").read_text())["base"]["values"]["0"] == better_base.values[0]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (_seeds(HIGH), "All values are identical"),
        (_seeds([value + 0.0005 for value in HIGH]), "No significant difference"),
        (_seeds(LOW), "Better"),
        (None, "The base was not trained with several seeds, so there is no comparison."),
        (_seeds([], problem='No recipe "tune.smoke:seeds".'), "The base could not be trained"),
        (_seeds(HIGH[:4]), "One side has fewer than 5 seeds"),
        (_seeds([None] * 5 + LOW[:5]), "Better"),
    ],
)
def test_every_other_verdict_exits_with_code_0(run_cli, base, message):
    result = run_cli(base=base)
    assert result.exit_code == 0, result.stdout
    assert message in (run_cli.out / "comment.md").read_text()


def test_the_comment_ranks_the_trials_and_plots_the_best_so_far_and_both_sides(run_cli, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    run_cli(base=_seeds(LOW))
    result = run_cli("--record", str(run_cli.out / "record.json"), "--summary", str(summary))
    assert result.exit_code == 0
    text = (run_cli.out / "comment.md").read_text()
    assert summary.read_text() == "before\n" + text
    page = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert page.count("<table>") == 2
    assert "<td>1</td>\n<td>4</td>\n<td>0.9200</td>" in page
    assert page.count('<code class="language-mermaid">') == 2
    assert "line [0.5, 0.52, 0.6, 0.62, 0.7, 0.72, 0.8, 0.82, 0.9, 0.92]" in text
    assert f"line [{', '.join(f'{value:.5g}' for value in LOW)}]" in text


def test_a_verdict_from_a_record_never_fails_the_command(run_cli):
    run_cli(base=_seeds([min(1.0, value + 0.02) for value in HIGH]))
    result = run_cli("--record", str(run_cli.out / "record.json"))
    assert result.exit_code == 0
    assert "worse than the base" in (run_cli.out / "comment.md").read_text()


def test_an_untrusted_record_cannot_add_links_images_mentions_or_html(run_cli):
    run_cli(base=_seeds(HIGH))
    evil = "` @octocat ![x](https://example.org/x.png) <img src=x> | [y](https://example.org)\n```\n# big"
    record = json.loads((run_cli.out / "record.json").read_text())
    for row in record["rows"]:
        row |= {"config": evil, "ended": evil}
    record["base"] |= {"values": {}, "problem": evil}
    text = comment(Record.model_validate(record))
    page = MarkdownIt("gfm-like", {"linkify": False, "html": False}).render(text)
    for tag in ("<a ", "<img", "<h1"):
        assert tag not in page
    inline_tokens = [token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text) if token.children]
    outside_code = "".join(
        child.content for token in inline_tokens for child in token.children if child.type != "code_inline"
    )
    assert "octocat" in text
    assert "octocat" not in outside_code
    assert "example.org" not in outside_code
    assert page.count("<table>") == 1


BAD = {
    "no JSON": ("{", "the file: Invalid JSON"),
    "another file": ('{"a": 1}', "Field required"),
    "a metric that is Markdown": ({"metric": "# big"}, "metric: String should match pattern"),
    "an invalid commit": ({"ours": {"commit": "@octocat"}}, "ours.commit: String should match pattern"),
    "a value that is not a number": ({"ours": {"values": {"0": "nan"}}}, "ours.values.0"),
    "an extra field": ({"html": "<img>"}, "html: Extra inputs are not permitted"),
    "a text that is too long": ({"rows": [{"config": "x" * 401}]}, "rows.0.config: String should have at most 400"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_record_is_rejected_and_nothing_is_written(run_cli, tmp_path, case):
    content, message = BAD[case]
    run_cli(base=_seeds(HIGH))
    if not isinstance(content, str):
        record = json.loads((run_cli.out / "record.json").read_text())
        for key, value in content.items():
            if isinstance(value, dict):
                record[key] |= value
            elif isinstance(value, list):
                record[key] = [{**record[key][0], **value[0]}]
            else:
                record[key] = value
        content = json.dumps(record)
    shutil.rmtree(run_cli.out)
    (tmp_path / "evil.json").write_text(content)
    with pytest.raises(UserError, match="is not a record of toprung ci-report") as caught:
        run_cli("--record", str(tmp_path / "evil.json"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not run_cli.out.exists()


def test_an_oversized_record_is_not_read(run_cli, tmp_path):
    (tmp_path / "large.json").write_text(" " * 1_000_001)
    with pytest.raises(UserError, match="has 1000001 bytes"):
        run_cli("--record", str(tmp_path / "large.json"))


def test_a_metric_that_a_comment_cannot_show_is_rejected(run_cli, driver):
    odd = driver(name="odd", metric="val/accuracy of top 1")
    with pytest.raises(UserError, match="cannot be shown in a comment: metric: String should match"):
        run_cli(odd.sweep_dir.sweep_id, "--storage", str(odd.sweep_dir.path.parent))


def test_inputs_that_do_not_fit_together_are_rejected(run_cli):
    with pytest.raises(UserError, match=r"cannot be compared with tune\.other:seeds"):
        run_cli(base=_seeds(HIGH, recipe="tune.other:seeds"))
    with pytest.raises(UserError, match="does not train one configuration with several seeds"):
        run_cli(run_cli.sweep.sweep_dir.sweep_id, "--seeds", run_cli.sweep.sweep_dir.sweep_id, "--storage",
              str(run_cli.sweep.sweep_dir.path.parent))  # fmt: skip
    with pytest.raises(UserError, match="Give a sweep or a record"):
        CliRunner().invoke(app, ["ci-report"], catch_exceptions=False)
