"""Text on a terminal is wrapped to its width. Progress bars are shown only on terminals."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path

import click
import pytest
from engine.cli.command_group import cli
from engine.render.progress import is_shown
from engine.render.text import cells, print_line, wrap
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
EVENT = "playbooks/events/terminal-shell.json"
SHELL = [
    "--values=playbooks/values.yaml",
    "playbooks/execution/terminal-shell-in-container.yaml",
    "playbooks/execution/terminal-shell-in-container.test.yaml",
]
SGR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Return a function that runs a command on a terminal with a number of columns, and returns the lines."""

    def run(columns, *arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("COLUMNS", str(columns))
        stdout = Terminal()
        monkeypatch.setattr("sys.stdout", stdout)
        with contextlib.suppress(SystemExit):
            cli.main(arguments, prog_name="tiercel", standalone_mode=False)
        return SGR.sub("", stdout.getvalue()).splitlines()

    return run


def test_text_output_fits_the_terminal(on_terminal, tmp_path):
    (tmp_path / "broken.yaml").write_text("kind: Playbook\nspce: {}\n")
    for command in (
        ["check", str(tmp_path)], ["plan", *SHELL, EVENT], ["explain", *SHELL, EVENT],
        ["replay", *SHELL, EVENT], ["test", *SHELL], ["actions"], ["actions", "pod.isolate"],
    ):  # fmt: skip
        narrow, wide = on_terminal(50, *command), on_terminal(1_000, *command)
        assert max(map(cells, narrow)) <= 50 < max(map(cells, wide)), command
        assert "".join("".join(narrow).split()) == "".join("".join(wide).split())


def test_machine_readable_output_is_not_wrapped(on_terminal):
    for command in (["plan", "-o", "json", *SHELL, EVENT], ["schema"]):
        assert on_terminal(20, *command) == on_terminal(1_000, *command)


def test_lines_to_a_pipe_are_not_wrapped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    print_line("a line of many words")
    assert capsys.readouterr().out == "a line of many words\n"


def test_wrapped_line_is_indented_and_colors_take_no_columns():
    line = "  1  mark  " + click.style("planned", fg="cyan") + "  label quarantine=true"
    assert wrap(line, 24).split("\n") == [
        "  1  mark\x1b[36m  planned\x1b[0m",
        "      label",
        "      quarantine=true",
    ]
    assert wrap("日本語" * 3, 8).split("\n") == [
        "日本語日", "    本語", "    日本", "    語",
    ]  # fmt: skip


PARTS = st.lists(st.sampled_from(["  ", " ", "word", "longer-word" * 3, "語", "\x1b[31m"]))


@given(PARTS.map("".join), st.integers(4, 30))
def test_wrapped_lines_fit_and_keep_all_words(line, columns):
    lines = SGR.sub("", wrap(line, columns)).split("\n")
    assert all(cells(one) <= columns for one in lines)
    assert "".join("".join(lines).split()) == "".join(SGR.sub("", line).split())


def test_progress_bar_is_shown_on_a_terminal_only_and_not_with_a_pipe(monkeypatch, tmp_path):
    master, slave = os.openpty()
    reading, writing = os.pipe()
    with (
        os.fdopen(master), os.fdopen(slave, "w") as terminal, os.fdopen(reading),
        os.fdopen(writing, "w") as pipe, (tmp_path / "out").open("w") as file,
    ):  # fmt: skip
        for stderr, stdout, expected in (
            (terminal, terminal, True), (terminal, file, True), (terminal, pipe, False),
            (file, terminal, False), (pipe, file, False),
        ):  # fmt: skip
            monkeypatch.setattr(sys, "stderr", stderr)
            monkeypatch.setattr(sys, "stdout", stdout)
            assert is_shown() is expected
