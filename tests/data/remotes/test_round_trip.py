"""A round trip for every remote: after a push, clearing the cache and a pull, the bytes are the same."""

import shutil

import pytest


def test_pushed_files_are_pulled_into_an_empty_cache(new_project, location):
    before = new_project.hashes()
    assert len(before) == 9
    new_project.add_remote(location.new_url())
    assert "11 files sent" in new_project.succeed("push")
    new_project.wipe()
    assert new_project.hashes() == {}
    assert "11 files fetched" in new_project.succeed("pull")
    assert new_project.hashes() == before
    if location.kind == "gdrive":
        assert location.drive.num_requests > 0  # without PySocks, httplib2 silently ignores a proxy


@pytest.mark.parametrize("location", ["local"], indirect=True)
def test_the_status_says_what_differs_and_what_to_type(new_project, location):
    new_project.add_remote(location.new_url())
    status = new_project.succeed("status").splitlines()
    assert "data/prepared/tiny: 1 file not pushed yet: toprung data push tiny" in status
    assert "data/raw/tiny: 8 files not pushed yet: toprung data push tiny" in status
    new_project.succeed("push")
    status = new_project.succeed("status")
    assert "everything matches dvc.lock and the .dvc files" in status
    assert "has everything that is here" in status
    (new_project.root / "data/raw/tiny/0.png").write_bytes(b"another")
    assert new_project.succeed("status").splitlines()[:2] == [
        "data/prepared/tiny: prepared from other images or settings: toprung data prepare tiny",
        "data/raw/tiny: modified: toprung data prepare tiny   (or undo it: dvc checkout data/raw/tiny)",
    ]
    new_project.wipe()
    assert new_project.succeed("status").splitlines()[:2] == [
        "data/prepared/tiny: not here: toprung data pull tiny", "data/raw/tiny: not here: toprung data pull tiny",
    ]  # fmt: skip


@pytest.mark.parametrize("location", ["local"], indirect=True)
def test_a_dataset_that_was_added_is_not_prepared_yet(new_project, location):
    new_project.add_remote(location.new_url())
    (new_project.root / "dvc.lock").unlink()
    shutil.rmtree(new_project.root / "data/prepared/tiny")
    assert new_project.succeed("status").splitlines() == [
        "data/prepared/tiny: not prepared yet: toprung data prepare tiny",
        "data/raw/tiny: 8 files not pushed yet: toprung data push tiny",
    ]


@pytest.mark.parametrize("location", ["gs"], indirect=True)
def test_a_pull_does_not_contact_the_remote_for_cached_files(project, location):
    location.relay.cut()
    (project.root / "data/prepared/tiny/train_images.npy").unlink()
    assert project.succeed("pull", "tiny") == "Everything is here.\n"
    assert len(project.hashes()) == 9


@pytest.mark.parametrize("location", ["local"], indirect=True)
def test_raw_files_that_dvc_overlooks_are_pushed_and_pulled_by_name(new_project, location):
    before = new_project.hashes()
    (new_project.root / ".gitignore").write_text("/data/*\n!/data/raw/\n/data/raw/*\n!/data/raw/*.dvc\n")
    dvc_yaml = new_project.root / "dvc.yaml"
    dvc_yaml.write_text(dvc_yaml.read_text() + "  prepare_later:\n    cmd: 'true'\n    outs: [data/prepared/later]\n")
    new_project.add_remote(location.new_url())
    pushed = new_project.toprung("push")
    assert "11 files sent" in pushed.stdout
    assert pushed.stderr == (
        "DVC overlooks data/raw/tiny.dvc: without arguments, dvc push leaves such data out, and dvc pull and "
        "dvc checkout delete it. Change in .gitignore: /data/* to /data/?*, /data/raw/* to /data/raw/?*.\n"
    )
    assert new_project.succeed("pull") == "Everything is here.\n"
    assert new_project.hashes() == before
    new_project.wipe()
    assert "11 files fetched" in new_project.succeed("pull")
    assert new_project.hashes() == before
