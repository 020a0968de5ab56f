"""`toprung ci-base` for a base that cannot be trained; tests/test_workflows.py trains one, in the mini-sweep."""

import json
import subprocess


def _commit(bench, message):
    for words in (["add", "."], ["commit", "-q", "-m", message]):
        subprocess.run(["git", *words], cwd=bench, check=True)


def test_a_base_without_the_recipe_is_reported_as_a_problem_and_is_not_a_failure(new_bench, toprung):
    bench = new_bench()
    recipe = (bench / "tune" / "smoke.py").read_text()
    (bench / "tune" / "smoke.py").write_text(recipe.replace("def seeds(", "def other("))
    _commit(bench, "No seeds yet")
    (bench / "tune" / "smoke.py").write_text(recipe)
    _commit(bench, "Seeds")
    done = toprung("ci-base", "tune.smoke:seeds", "--out", "base.json", folder=bench)
    assert done.code == 0, done.stderr
    record = json.loads((bench / "base.json").read_text())
    assert record["problem"] == "tune/smoke.py has no function seeds() that returns a Sweep."
    assert record["values"] == {}
    head = subprocess.run(["git", "rev-parse", "HEAD^1"], cwd=bench, check=True, capture_output=True, text=True)
    assert record["commit"] == head.stdout.strip()
    assert "could not be trained" in done.stdout


def test_a_mistake_prints_one_line_and_writes_nothing(bench, toprung):
    for words, message in (
        (["tune.smoke"], "tune.smoke does not train one configuration with several seeds"),
        (["tune.smoke:seeds", "--commit", "--help"], 'There is no commit "--help" in '),
        (["tune.smoke:seeds", "--commit", "HEAD^1"], "In a shallow clone, fetch more: git fetch --deepen=1"),
    ):
        done = toprung("ci-base", *words, "--out", "base.json", folder=bench)
        assert done.code == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (bench / "base.json").exists()
