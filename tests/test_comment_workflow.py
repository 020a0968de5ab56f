"""The script that posts the comment, in a real Node, against a GitHub that only writes down what it is asked."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from toprung.analysis.pull_request.comment import MARKER

PROJECT = Path(__file__).parent.parent
STEPS = yaml.safe_load((PROJECT / ".github/workflows/comment.yml").read_text())["jobs"]["comment"]["steps"]
SCRIPT = next(step["with"]["script"] for step in STEPS if "script" in step.get("with", {}))

# `github.paginate` is called with the method whose pages are wanted, as github-script's own is.
GITHUB = """
const given = JSON.parse(process.argv[2]);
const asked = [];
const write = (verb) => async (what) => { asked.push([verb, what]); };
const github = {
  paginate: async (method, what) => { asked.push([method, what]); return given[method]; },
  rest: {
    pulls: { list: 'pulls' },
    issues: { listComments: 'comments', createComment: write('create'), updateComment: write('update') },
  },
};
const context = {
  repo: { owner: 'them', repo: 'toprung' },
  payload: { workflow_run: { head_sha: 'abc', head_branch: 'fix', head_repository: { owner: { login: 'someone' } } } },
};
const core = { notice: (text) => asked.push(['notice', text]) };
(async () => {
%s
})().then(() => console.log(JSON.stringify(asked)));
"""
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node, which GitHub's runners have")


@pytest.fixture
def post(tmp_path):
    body = f"{MARKER}\n\n### Mini-sweep\n"
    (tmp_path / "build/ci-report").mkdir(parents=True)
    (tmp_path / "build/ci-report/comment.md").write_text(body)
    (tmp_path / "script.cjs").write_text(GITHUB % SCRIPT)

    def run(*, pulls, comments=()):
        given = json.dumps({"pulls": pulls, "comments": list(comments)})
        command = ["node", "script.cjs", given]
        ran = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return json.loads(ran.stdout)

    run.body = body
    return run


PULL = {"number": 7, "head": {"sha": "abc"}}
BOT = {"login": "github-actions[bot]"}


def test_the_first_run_posts_a_comment_on_the_pull_request_whose_head_was_measured(post):
    asked = post(pulls=[{"number": 6, "head": {"sha": "old"}}, PULL], comments=[])
    assert asked[0] == ["pulls", {"owner": "them", "repo": "toprung", "state": "open", "head": "someone:fix"}]
    assert asked[-1] == ["create", {"owner": "them", "repo": "toprung", "issue_number": 7, "body": post.body}]


def test_a_later_run_brings_that_comment_up_to_date_and_no_other(post):
    comments = [
        {"id": 1, "user": {"login": "someone"}, "body": post.body},
        {"id": 2, "user": BOT, "body": "of another workflow"},
        {"id": 3, "user": BOT, "body": f"{MARKER}\nan older one"},
    ]
    asked = post(pulls=[PULL], comments=comments)
    assert asked[-1] == ["update", {"owner": "them", "repo": "toprung", "comment_id": 3, "body": post.body}]


def test_a_pull_request_that_has_moved_on_gets_nothing(post):
    asked = post(pulls=[{"number": 7, "head": {"sha": "newer"}}])
    assert [verb for verb, _ in asked] == ["pulls", "notice"]
