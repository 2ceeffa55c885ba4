"""The commit that wrote a file: in a clone, in a shallow clone, in a hostile clone, and without a clone."""

from __future__ import annotations

import os
import subprocess

import pytest
from engine.language.folder import blob_id
from engine.preview.git_repository import Repository, RevisionError
from tests.preview.test_comparison import AUTHOR

BLOB = blob_id(b"two\n")


def git(*arguments, cwd=".", **variables):
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=cwd, check=True, capture_output=True, env={**os.environ, **AUTHOR, **variables},
    )  # fmt: skip
    return done.stdout.decode().strip()


def commit(content, subject, author="Ada"):
    """Commit ``a.yaml`` with this content and return the id."""
    with open("a.yaml", "w") as file:  # noqa: PTH123 - shorter
        file.write(content)
    git("add", "-A")
    git("commit", "-qm", subject, GIT_AUTHOR_NAME=author)
    return git("rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository in which BLOB was written, replaced and written again. Returns the commits."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    return [
        commit(f"{content}\n", subject, author)
        for content, subject, author in (
            ("one", "First", "Ada"),
            ("two", "Second", "Grace"),
            ("three", "Third", "Ada"),
            ("two", "Revert to second", "Barbara"),
            ("four", "Fourth", "Ada"),
        )
    ]


def test_the_last_commit_that_wrote_the_content_is_found(clone, tmp_path):
    found = Repository(tmp_path).commit_of_blob(BLOB)
    assert (found.id, found.author, found.email) == (clone[3], "Barbara", "a@example.com")
    assert (found.subject, found.path) == ("Revert to second", "a.yaml")


def test_only_the_history_of_the_revision_counts(clone, tmp_path):
    repository = Repository(tmp_path)
    assert repository.commit_of_blob(BLOB, clone[2]).id == clone[1]
    assert repository.commit_of_blob(BLOB, clone[0]) is None


def test_content_of_the_first_commit_is_found_whatever_the_settings(clone, tmp_path):
    git("config", "log.showRoot", "false")
    assert Repository(tmp_path).commit_of_blob(blob_id(b"one\n")).id == clone[0]


def test_content_that_only_a_merge_wrote_is_found(clone, tmp_path):
    git("switch", "-qc", "side", clone[0])
    commit("side\n", "Side")
    git("switch", "-q", "main")
    subprocess.run(["git", "merge", "-q", "side"], check=False, capture_output=True)
    merged = commit("merged\n", "Merge side")
    assert Repository(tmp_path).commit_of_blob(blob_id(b"merged\n")).id == merged


def test_content_that_the_clone_does_not_have_is_an_error(clone, tmp_path):
    with pytest.raises(RevisionError, match="does not contain the file"):
        Repository(tmp_path).commit_of_blob(blob_id(b"elsewhere\n"))
    with pytest.raises(RevisionError, match="does not contain the file"):
        Repository(tmp_path).commit_of_blob(clone[0])  # a commit is not a blob


@pytest.mark.usefixtures("clone")
def test_the_border_of_a_shallow_clone_is_not_blamed(tmp_path, monkeypatch):
    commit("two\n", "Third time")
    git("commit", "-q", "--allow-empty", "-m", "Another change", GIT_AUTHOR_NAME="Innocent")
    shallow = tmp_path.with_name("shallow")
    git("clone", "-q", "--depth=1", tmp_path.as_uri(), str(shallow))
    monkeypatch.chdir(shallow)
    with pytest.raises(RevisionError, match=r"shallow \(git fetch --unshallow\)"):
        Repository(shallow).commit_of_blob(BLOB)


def sign(commit):
    """Copy a commit with a signature, so that git can verify it with a program. Return its id."""
    lines = git("cat-file", "commit", commit).splitlines()
    signature = [
        "gpgsig -----BEGIN PGP SIGNATURE-----",
        " ",
        " iQ==",
        " -----END PGP SIGNATURE-----",
    ]
    end = lines.index("")
    content = "\n".join([*lines[:end], *signature, *lines[end:], ""])
    with open("signed", "w") as file:  # noqa: PTH123 - shorter
        file.write(content)
    return git("hash-object", "-t", "commit", "-w", "signed")


def test_a_clone_runs_no_program_of_its_settings(clone, tmp_path):
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    (tmp_path / ".gitattributes").write_text("*.yaml diff=trap\n")
    for name, value in (
        ("log.showSignature", "true"),
        ("gpg.program", str(trap)),
        ("diff.external", str(trap)),
        ("diff.trap.textconv", str(trap)),
        ("diff.trap.command", str(trap)),
        ("core.fsmonitor", str(trap)),
        ("core.pager", str(trap)),
    ):
        git("config", name, value)
    signed = sign(clone[3])
    git("update-ref", "refs/heads/main", signed)
    assert Repository(tmp_path).commit_of_blob(BLOB).id == signed
    assert not (tmp_path / "sprung").exists()


def test_names_of_a_commit_cannot_change_the_fields(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    id_ = commit("two\n", "\x1b[31mred\x01\n\nbody", author="A\x1b]0;x\x07B")
    found = Repository(tmp_path).commit_of_blob(BLOB)
    assert (found.id, found.subject) == (id_, "\x1b[31mred\x01")
    assert found.author == "A\x1b]0;x\x07B"


def test_a_folder_that_is_not_a_clone_is_an_error(tmp_path):
    with pytest.raises(RevisionError, match="not in a Git work tree"):
        Repository(tmp_path)
