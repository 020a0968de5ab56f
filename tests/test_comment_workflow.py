"""The script that posts the comment, run by Node.js with a fake GitHub API that records the calls."""

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

# `github.paginate` is called with the method whose pages are requested, as in actions/github-script.
GITHUB = """
const responses = JSON.parse(process.argv[2]);
const calls = [];
const write = (method) => async (parameters) => { calls.push([method, parameters]); };
const github = {
  paginate: async (method, parameters) => { calls.push([method, parameters]); return responses[method]; },
  rest: {
    pulls: { list: 'pulls' },
    issues: { listComments: 'comments', createComment: write('create'), updateComment: write('update') },
  },
};
const context = {
  repo: { owner: 'them', repo: 'toprung' },
  payload: { workflow_run: { head_sha: 'abc', head_branch: 'fix', head_repository: { owner: { login: 'someone' } } } },
};
const core = { notice: (text) => calls.push(['notice', text]) };
(async () => {
%s
})().then(() => console.log(JSON.stringify(calls)));
"""
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node, which GitHub's runners have")


@pytest.fixture
def post(tmp_path):
    body = f"{MARKER}\n\n### Mini-sweep\n"
    (tmp_path / "build/ci-report").mkdir(parents=True)
    (tmp_path / "build/ci-report/comment.md").write_text(body)
    (tmp_path / "script.cjs").write_text(GITHUB % SCRIPT)

    def run(*, pulls, comments=()):
        responses = json.dumps({"pulls": pulls, "comments": list(comments)})
        command = ["node", "script.cjs", responses]
        ran = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return json.loads(ran.stdout)

    run.body = body
    return run


PULL = {"number": 7, "head": {"sha": "abc"}}
BOT = {"login": "github-actions[bot]"}


def test_the_first_run_posts_a_comment_on_the_pull_request_whose_head_was_measured(post):
    calls = post(pulls=[{"number": 6, "head": {"sha": "old"}}, PULL], comments=[])
    assert calls[0] == ["pulls", {"owner": "them", "repo": "toprung", "state": "open", "head": "someone:fix"}]
    assert calls[-1] == ["create", {"owner": "them", "repo": "toprung", "issue_number": 7, "body": post.body}]


def test_a_later_run_updates_that_comment_and_no_other(post):
    comments = [
        {"id": 1, "user": {"login": "someone"}, "body": post.body},
        {"id": 2, "user": BOT, "body": "of another workflow"},
        {"id": 3, "user": BOT, "body": f"{MARKER}\nan older one"},
    ]
    calls = post(pulls=[PULL], comments=comments)
    assert calls[-1] == ["update", {"owner": "them", "repo": "toprung", "comment_id": 3, "body": post.body}]


def test_a_pull_request_with_newer_commits_gets_no_comment(post):
    calls = post(pulls=[{"number": 7, "head": {"sha": "newer"}}])
    assert [method for method, _ in calls] == ["pulls", "notice"]
