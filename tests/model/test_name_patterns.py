"""Names and globs of rules, hosts and namespaces."""

from __future__ import annotations

import re2
from engine.model import name_patterns
from engine.model.name_patterns import glob_matcher, name_matcher


def test_a_glob_is_compiled_with_a_limit_on_memory(monkeypatch):
    compiled = []

    def record(expression, options=None):
        compiled.append(options.max_mem if options else re2.Options().max_mem)
        return compile_(expression, options)

    compile_ = re2.compile
    monkeypatch.setattr(name_patterns.re2, "compile", record)
    assert glob_matcher("a*")("abc")
    assert compiled == [2**19]


def test_the_largest_list_of_globs_that_a_playbook_may_have_is_compiled():
    for glob in ("?" * 1000, "*" * 1000, "é*" * 500, "\U0001f600?" * 500):
        assert glob_matcher(glob)("x" * 1000) in (True, False)
    assert glob_matcher("?" * 1000)("é" * 1000)


def test_a_name_is_one_of_the_exact_names_or_matches_a_glob():
    matches = name_matcher(["Write below etc", "Shell ?n *"])
    assert matches("Write below etc")
    assert matches("Shell in container")
    assert not matches("Write below")
