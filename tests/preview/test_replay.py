from __future__ import annotations

import gzip
import json

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.language.folder import Files
from engine.model.event import parse_event
from engine.model.own_identity import OwnIdentity
from engine.preview.replay import CountTable, PlaybookReplay
from engine.render.replay_view import pick_varied
from tests.support.playbooks import new_loader

PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: shut}
spec:
  match: {rules: [R]}
  throttle: {key: [k8s.pod.name], once: 10m}
  actions:
    - {action: pod.label, name: mark, with: {labels: {why: "%proc.name"}}, onFailure: continue}
    - {action: pod.delete, name: kill, onFailure: continue}
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: resting}
spec:
  mode: disabled
  match: {rules: [R]}
  throttle: {once: 1m}
  actions: [{action: pod.label, with: {labels: {a: b}}}]
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: idle}
spec:
  match: {rules: [Other]}
  actions: [{action: pod.label, with: {labels: {a: b}}}]
"""


def alert(minute, pod="web-0", namespace="demo", name="sh", rule="R"):
    hour, minute = divmod(minute, 60)
    fields = {"k8s.ns.name": namespace, "k8s.pod.name": pod, "proc.name": name}
    time = f"2026-03-01T{10 + hour}:{minute:02}:00Z"
    return {"rule": rule, "priority": "Warning", "time": time, "output_fields": fields}


@pytest.fixture
def replayed(tmp_path, monkeypatch):
    """Replays alerts (or lines of text) with the playbook, and returns the result of the command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "a.yaml").write_text(PLAYBOOK)

    def replay(*items, output="json"):
        lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
        (tmp_path / "events.ndjson").write_text("\n".join(lines) + "\n")
        return tiercel("replay", "events.ndjson", "-o", output)

    return replay


def tiercel(*arguments, stdin=None):
    return CliRunner().invoke(cli, arguments, stdin, prog_name="tiercel", catch_exceptions=False)


def test_runs_are_counted_by_playbook_action_namespace_and_hour(replayed):
    result = replayed(alert(0), alert(61, "web-1", "shop"), alert(62, rule="Nobody's"))
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (told["events"], told["matched"], told["unmatched"]) == (3, 2, 1)
    assert (told["runs"], told["stopped"]) == (2, 2)
    assert (told["first"], told["last"]) == ("2026-03-01T10:00:00Z", "2026-03-01T11:02:00Z")
    by_name = {row["name"]: row for row in told["playbooks"]}
    assert by_name["shut"] == {
        "name": "shut", "mode": "enforce", "runs": 2, "stopped": 0,
        "planned": 4, "held": 0, "refused": 0, "skipped": 0, "failed": 0,
    }  # fmt: skip
    assert (by_name["resting"]["stopped"], by_name["idle"]["runs"]) == (2, 0)
    assert {row["name"]: row["planned"] for row in told["actions"]} == {
        "pod.label": 2, "pod.delete": 2,
    }  # fmt: skip
    assert [(row["name"], row["runs"]) for row in told["namespaces"]] == [("demo", 1), ("shop", 1)]
    assert [(row["name"], row["runs"]) for row in told["targets"]] == [
        ("demo/web-0", 1), ("shop/web-1", 1),
    ]  # fmt: skip
    assert told["hours"] == [
        {"hour": "2026-03-01T10:00:00Z", "events": 1, "runs": 1, "stopped": 1},
        {"hour": "2026-03-01T11:00:00Z", "events": 2, "runs": 1, "stopped": 1},
    ]


def test_the_reasons_of_suppressed_runs_are_shown(replayed):
    told = json.loads(replayed(alert(0), alert(0), alert(1), alert(10)).stdout)
    shut = [(row["why"], row["runs"]) for row in told["stoppedBy"] if row["playbook"] == "shut"]
    assert sorted(shut) == [("duplicate", 1), ("throttle", 1)]
    assert told["runs"] == 2


def test_silences_suppress_runs(replayed, tmp_path):
    (tmp_path / "playbooks" / "silence.yaml").write_text("""\
apiVersion: tiercel.dev/v1
kind: Silence
metadata: {name: maintenance}
spec: {match: {rules: [R]}, until: 2026-03-01T10:05:00Z, owner: me, comment: works}
""")
    told = json.loads(replayed(alert(0), alert(20)).stdout)
    row = {"playbook": "shut", "why": "silence: maintenance", "runs": 1}
    assert row in told["stoppedBy"]
    assert told["runs"] == 1


def test_steps_that_guardrails_refuse_are_grouped_by_reason(replayed):
    events = [alert(n, f"web-{n}") for n in range(7)]
    events += [alert(30 + n, f"dns-{n}", "kube-system") for n in range(2)]
    events += [alert(40 + n, f"odd-{n}", "shop", name="no label! " * (n + 1)) for n in range(3)]
    told = json.loads(replayed(*events).stdout)
    reasons = {(row["state"], row["step"]): row for row in told["reasons"]}
    held = reasons["held", "kill"]
    assert held["steps"] == 2
    assert held["why"] == "the budget of 5 targets per 10m and namespace is used up (disrupt)"
    protected = [
        row for row in told["reasons"] if row["why"] == "namespace kube-system is protected"
    ]
    assert sum(row["steps"] for row in protected) == 4
    assert [row["steps"] for row in told["reasons"] if row["why"].startswith("a value")] == [3]
    assert told["steps"]["held"] == 2


def test_reasons_that_differ_only_by_the_pod_are_grouped(replayed, tmp_path):
    replayed(alert(0))
    yaml = (tmp_path / "playbooks/a.yaml").read_text()
    keep = yaml.replace("name: kill,", "name: kill, with: {skipKinds: [Deployment]},")
    (tmp_path / "playbooks/a.yaml").write_text(keep)
    (row,) = json.loads(replayed(alert(0, "a"), alert(1, "b", "shop")).stdout)["reasons"]
    assert (row["state"], row["steps"]) == ("skipped", 2)
    assert row["why"] == "pod … belongs to a Deployment (skipKinds)"


def test_unreadable_lines_are_reported_and_exit_1(replayed):
    result = replayed("starting falco", alert(0), '{"rule": 5}', "{", alert(20))
    assert result.exit_code == 1
    assert "events.ndjson:3: `rule` must be a non-empty string" in result.stderr
    assert "events.ndjson:4: not JSON" in result.stderr
    told = json.loads(result.stdout)
    assert (told["events"], told["otherLines"], told["unreadable"]["count"]) == (2, 1, 2)
    many = replayed(*["{"] * 50)
    assert "events.ndjson: and 30 more lines that cannot be read" in many.stderr
    assert len(many.stderr.splitlines()) == 21


def test_a_file_with_only_other_text_is_not_an_error(replayed):
    result = replayed("a log", "of something else", output="text")
    assert result.exit_code == 0
    assert "2 lines of other text" in result.stdout


def test_events_are_read_from_compressed_files_and_stdin(replayed, tmp_path):
    replayed(alert(0))
    packed = gzip.compress((tmp_path / "events.ndjson").read_bytes())
    told = json.loads(tiercel("replay", "playbooks/", "-", "-o", "json", stdin=packed).stdout)
    assert (told["file"], told["runs"]) == ("-", 1)


def test_a_wrong_use_exits_2_and_a_broken_folder_1(replayed, tmp_path):
    replayed(alert(0))
    assert tiercel("replay").exit_code == 2
    assert tiercel("replay", "nothing.ndjson").exit_code == 2
    assert tiercel("replay", "playbooks").exit_code == 2
    assert tiercel("replay", "events.ndjson", "-o", "xml").exit_code == 2
    (tmp_path / "playbooks" / "b.yaml").write_text("kind: Playbok\n")
    broken = tiercel("replay", "events.ndjson")
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert "playbooks/b.yaml:1:7: error" in broken.stderr


def test_text_output_has_tables_and_a_summary_in_the_last_line(replayed):
    lines = replayed(alert(0), alert(1), output="text").stdout.splitlines()
    assert lines[0] == "events.ndjson  2 events  2026-03-01 10:00 to 2026-03-01 10:01 UTC"
    head = next(line for line in lines if line.startswith("Playbook"))
    row = next(line for line in lines if line.startswith("  shut"))
    assert head.split() == ["Playbook", "runs", "stopped", "planned"]
    assert row.split() == ["shut", "1", "1", "2"]
    assert len(head) == len(row)
    assert "  1 playbook matched no event: idle" in lines
    assert "- delete pods/web-0 in demo" in "\n".join(lines)
    assert lines[-1] == (
        "2 events, 1 run, 2 steps, 2 writes, 0 messages; 3 runs stopped. Nothing was changed."
    )


def test_the_number_of_examples_is_limited(replayed):
    told = json.loads(replayed(*(alert(n, f"web-{n}") for n in range(50))).stdout)
    assert 2 <= len(told["examples"]) <= 4
    first = told["examples"][0]
    assert (first["line"], first["run"]["playbook"]) == (1, "shut")
    assert first["run"]["steps"][1]["calls"][0]["verb"] == "delete"


def test_an_example_has_no_long_values_of_the_event(replayed):
    long = alert(0, name="x" * 300_000, rule="R") | {"output": "y" * 300_000}
    assert 1_000 < len(replayed(long).stdout) < 20_000


def test_invented_names_need_limited_memory_and_do_not_hide_real_ones():
    table = CountTable("runs", most=100)
    for number in range(10_000):
        table.add(f"invented-{number}", "runs")
        table.add("real", "runs")
    rows = table.rows()
    assert len(rows) <= 100
    assert rows[0] == ("real", {"runs": 10_000})
    assert sum(row["runs"] for _, row in rows) + sum(table.rest) == 20_000


def test_the_shown_examples_are_of_different_kinds():
    assert pick_varied(["a1", "a2", "a3", "b1", "c1", "b2"], lambda item: item[0], 4) == [
        "a1", "b1", "c1", "a2",
    ]  # fmt: skip


def test_changes_for_a_journal_do_not_accumulate():
    found = new_loader().load(Files("", {"a.yaml": PLAYBOOK.encode()})).usable()
    side = PlaybookReplay(found, OwnIdentity())
    for minute in range(30):
        assert side.run(parse_event(alert(minute, f"web-{minute}")))
    assert side._memory.changes == {}
