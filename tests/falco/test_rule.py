"""The fields that the output of a rule prints."""

from __future__ import annotations

import pytest
from engine.falco.rule import fields_in_output


@pytest.mark.parametrize(
    ("output", "fields"),
    [
        ("a %proc.name b %fd.name.", {"proc.name", "fd.name"}),
        ("%proc.aname[2] %ka.uri.param[command]", {"proc.aname[2]", "ka.uri.param[command]"}),
        ("%k8s.pod.label[app.kubernetes.io/name]", {"k8s.pod.label[app.kubernetes.io/name]"}),
        ("%20proc.name", {"proc.name"}),
        ("%tolower(proc.name) %toupper( %b64(fd.name))", {"proc.name", "fd.name"}),
        ('%join(", a.b", proc.name, proc.aname[2]) x.y', {"proc.name", "proc.aname[2]"}),
        ("%container.info 100 % %tolower(", set()),
        (
            '%concat(fd.rip, ") (", fd.rport) %evt.arg.flags',
            {"fd.rip", "fd.rport", "evt.arg.flags"},
        ),
        ("%len('it\\'s )', proc.name) x", {"proc.name"}),
        ("don't %upper(proc.name) isn't %fd.name", {"proc.name", "fd.name"}),
        ("%evt.type.Next %proc.namely %my.own.field", {"evt.type", "proc.name", "my.own.field"}),
    ],
)
def test_the_fields_of_an_output_are_found(output, fields):
    assert set(fields_in_output(output)) == fields


HOSTILE_LENGTH = 1 << 20


@pytest.mark.parametrize("unit", ["%a.b[", "%tolower(", "%", "%1", "a.", '%x("\\', "'", "%x('\\\""])
def test_the_scan_of_an_output_is_linear(unit):
    # a scan that restarts at each position would take hours for a text of this length
    assert list(fields_in_output(unit * (HOSTILE_LENGTH // len(unit)) + " %proc.name"))[-1:] in (
        [],
        ["proc.name"],
    )
