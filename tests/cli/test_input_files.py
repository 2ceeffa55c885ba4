"""Files that a command line names: the size is limited, and a device is refused."""

from __future__ import annotations

import io
import json
import os
import threading

import pytest
from click.testing import CliRunner
from engine.cli import input_files
from engine.cli.command_group import cli

PLAYBOOK = {
    "apiVersion": "tiercel.dev/v1",
    "kind": "Playbook",
    "metadata": {"name": "mark"},
    "spec": {
        "match": {"rules": ["R"]},
        "actions": [{"action": "pod.label", "with": {"labels": {"a": "b"}}}],
    },
}
EVENT = json.dumps({"rule": "R", "time": "2026-03-01T10:00:00Z"})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(input_files, "MAX_EVENTS_BYTES", 1000)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "a.yaml").write_text(json.dumps(PLAYBOOK))
    (tmp_path / "event.json").write_text(EVENT)
    return tmp_path


def tiercel(*arguments, stdin=None):
    return CliRunner().invoke(cli, arguments, stdin, prog_name="tiercel", catch_exceptions=False)


class Endless(io.RawIOBase):
    """Zeros without end, like /dev/zero. Counts the bytes that were read."""

    def __init__(self):
        self.taken = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.taken += len(buffer)
        assert self.taken < 10 * 2**20, "the input is read without a limit"
        return len(buffer)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["plan", "explain"])
def test_a_file_of_events_that_is_too_large_is_refused(folder, command):
    (folder / "large.json").write_text(EVENT + " " * 1000)
    for result in (
        tiercel(command, "large.json"),
        tiercel(command, "-", stdin=io.BufferedReader(Endless())),
    ):
        assert result.exit_code == 2
        assert "larger than" in result.stderr
        assert "tiercel replay" in result.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "/dev/zero"),
        ("explain", "/dev/zero"),
        ("replay", "/dev/zero"),
        ("plan", "--cluster", "/dev/zero", "event.json"),
    ],
)
def test_a_device_is_refused(arguments):
    result = tiercel(*arguments)
    assert result.exit_code == 2
    assert "/dev/zero: not a regular file or a pipe" in result.stderr


@pytest.mark.parametrize("command", ["plan", "explain", "replay"])
def test_a_pipe_is_read(folder, command):
    os.mkfifo(folder / "pipe")
    writer = threading.Thread(target=(folder / "pipe").write_text, args=(EVENT,))
    writer.start()
    result = tiercel(command, "pipe")
    writer.join()
    assert result.exit_code == 0, result.stderr
    assert "1 event" in result.stdout


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["plan", "explain", "replay"])
def test_a_file_that_does_not_exist_is_named_with_the_usage(command):
    result = tiercel(command, "none.json")
    assert result.exit_code == 2
    assert "none.json: No such file or directory" in result.stderr
    assert f"tiercel {command} [PLAYBOOKS] EVENTS" in result.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["plan", "explain", "replay"])
def test_a_folder_in_place_of_the_events_is_named_with_the_usage(command):
    result = tiercel(command, "playbooks")
    assert result.exit_code == 2
    assert "playbooks: is a folder, and a file is needed" in result.stderr
    assert f"tiercel {command} [PLAYBOOKS] EVENTS" in result.stderr


@pytest.mark.parametrize("name", ["events.gz", "events.zst"])
def test_a_recording_that_is_not_what_its_name_says_is_an_error(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    result = tiercel("replay", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"{name}: is not compressed, although its name says so\n"
        "Fetch the file again. If Git LFS stores it: git lfs pull\n"
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["check", "test", "rbac", "digest"])
def test_a_missing_folder_of_playbooks_is_named_with_the_next_command(command):
    result = tiercel(command, "none")
    assert (result.exit_code, "none: No such file or directory" in result.stderr) == (1, True)
    assert result.stderr.endswith(f"for example: tiercel {command} playbooks/\n")


@pytest.mark.parametrize("command", ["plan", "explain", "replay", "rbac", "digest"])
def test_a_folder_without_playbooks_is_named(folder, command):
    (folder / "empty").mkdir()
    events = ["event.json"] if command in ("plan", "explain", "replay") else []
    result = tiercel(command, "empty", *events)
    assert (result.exit_code, result.stderr) == (0, "empty: there are no playbooks here\n")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("plan", "event.json", "--kubeconfig", "none"),
            "--kubeconfig and --context need --server",
        ),
        (("plan", "event.json", "--context", "kind"), "--kubeconfig and --context need --server"),
        (("explain", "playbooks", "event.json", "--recent"), "the only argument is PLAYBOOKS"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(arguments, message):
    result = tiercel(*arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
