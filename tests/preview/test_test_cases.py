"""`tiercel test`: a case fails if a step is missing, and if an unexpected step is planned."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import engine.preview.test_cases
import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.language.folder import read_files
from engine.language.yaml_source import read
from engine.preview.test_cases import read_cases
from tests.support.playbooks import new_loader

ROOT = Path(__file__).parents[2]
EVENT = {
    "rule": "Shell",
    "time": "2026-03-01T10:00:00Z",
    "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": "web-0", "proc.name": "bash"},
}
SYSTEM = {**EVENT["output_fields"], "k8s.ns.name": "kube-system"}
KILL = {
    "apiVersion": "tiercel.dev/v1",
    "kind": "Playbook",
    "metadata": {"name": "kill"},
    "spec": {
        "match": {"rules": ["Shell"]},
        "conditions": [{"field": "k8s.ns.name", "notIn": ["kube-system"]}],
        "throttle": {"once": "10m"},
        "actions": [
            {"action": "pod.label", "name": "mark", "with": {"labels": {"process": "%proc.name"}}},
            {"action": "pod.delete"},
        ],
        "finally": [{"action": "kubernetes.event", "with": {"message": "%rule"}}],
    },
}
ALL = {"actions": ["mark", "pod.delete"], "finally": ["kubernetes.event"]}


@pytest.fixture
def run(tmp_path):
    """Runs `tiercel test` on the playbook and the cases. Returns exit code, stdout and stderr."""

    def run(cases, *flags, playbook=None, **spec):
        kill = {**KILL, "spec": {**KILL["spec"], **(playbook or {})}}
        test = {
            **{key: KILL[key] for key in ("apiVersion", "metadata")},
            "kind": "PlaybookTest",
            "spec": {"cases": cases, **spec},
        }
        (tmp_path / "kill.yaml").write_text(yaml.safe_dump(kill))
        (tmp_path / "kill.test.yaml").write_text(yaml.safe_dump(test))
        done = CliRunner().invoke(cli, ["test", str(tmp_path), *flags])
        return done.exit_code, done.stdout, done.stderr

    return run


def case(expect, **event):
    return {"name": "a case", "event": {**EVENT, **event}, "expect": expect}


def field(name, value):
    return {"field": name, "equals": value}


@pytest.mark.parametrize(
    "expect",
    [
        ALL,
        {"actions": ["mark", "pod.delete"]},
        {"calls": [{"verb": "delete", "resource": "pods", "namespace": "demo"}]},
        {"calls": [{"body": {"metadata": {"labels": {"process": "bash"}}}}]},
        {"skipped": [], "refused": [], "held": []},
    ],
)
def test_a_case_that_meets_its_expectations_passes(run, expect):
    assert run([case(expect)])[0] == 0


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"actions": ["mark"]}, "expected [mark], planned [mark, pod.delete]"),
        (
            {"actions": ["mark", "pod.delete", "slack.post"]},
            "expected [mark, pod.delete, slack.post]",
        ),
        ({"actions": ["pod.delete", "mark"]}, "expected [pod.delete, mark]"),
        ({"finally": []}, "finally: expected [], planned [kubernetes.event]"),
        ({"nothing": True}, "nothing was expected"),
        ({"skipped": ["mark"]}, "skipped: expected [mark]"),
        ({"calls": [{"verb": "delete", "namespace": "shop"}]}, "nearest delete pods"),
        ({"calls": [{"verb": "delete"}], "onlyCalls": True}, "unexpected call patch pods/web-0"),
    ],
)
def test_a_case_that_does_not_meet_its_expectations_fails_with_the_difference(run, expect, said):
    code, out, _ = run([case(expect)])
    assert code == 1
    assert said in out
    assert "0 cases passed, 1 failed" in out


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"metadata": {"labels": {}}}, 1),
        ({"metadata": {"labels": {"process": "bash"}}}, 0),
        ({"metadata": []}, 1),
        ({}, 1),
    ],
)
def test_an_empty_list_or_mapping_in_an_expected_body_means_an_empty_one(run, body, code):
    assert run([case({"calls": [{"resource": "pods", "verb": "patch", "body": body}]})])[0] == code


def test_no_calls_at_all_can_be_expected(run):
    none = {"calls": [], "onlyCalls": True}
    assert run([case(none, output_fields=SYSTEM)])[0] == 0
    assert run([case(none)])[0] == 1


def test_a_failed_case_shows_each_step_with_its_state_and_message(run):
    later = {**EVENT, "time": "2026-03-01T10:01:00Z"}
    row = {"name": "in a row", "events": [EVENT, later], "expect": {"actions": ["mark"]}}
    code, out, _ = run([row])
    assert code == 1
    table = [line.split(None, 3) for line in out.splitlines() if "kill" in line and ":" not in line]
    assert [line[:3] for line in table] == [
        ["kill/mark", "planned", "planned"],
        ["kill/pod.delete", "planned", "not"],
        ["kill/kubernetes.event", "planned", "event"],
        ["kill", "suppressed", "throttle"],
    ]
    assert "delete demo/web-0" in out
    told = json.loads(run([row], "-o", "json")[1])[0]["steps"][0]
    assert told == {
        "playbook": "kill", "step": "mark", "state": "planned", "expected": "planned",
        "message": "label process=bash on demo/web-0",
    }  # fmt: skip
    assert "no playbook matched the events" in run([case(ALL, rule="Other")])[1]


def test_values_of_a_test_are_merged_over_those_of_the_folder(run, tmp_path):
    (tmp_path / "values.yaml").write_text("rules: {shell: Shell}\nword: a\n")
    changed = {
        "match": {"rules": ["${rules.shell}"]},
        "actions": [
            {"action": "pod.label", "name": "mark", "with": {"labels": {"process": "${word}"}}}
        ],
        "finally": [],
    }
    labelled = {"calls": [{"body": {"metadata": {"labels": {"process": "b"}}}}]}
    cases = [case(labelled), case({"nothing": True}, rule="Other")]
    assert run(cases, playbook=changed, values={"word": "b"})[0] == 0
    assert run(cases, playbook=changed)[0] == 1
    code, _, err = run(cases, playbook=changed, values={"word": "not a label"})
    assert (code, "kill.test.yaml" in err) == (1, True)
    assert "with these values the playbooks are not valid" in err


STEPS = {
    "conditions": [],
    "actions": [
        {"action": "http.request", "name": "ask", "with": {"url": "https://a.example/x"}},
        {
            "action": "pod.label",
            "name": "mark",
            "with": {"labels": {"a": "b"}},
            "when": [{"step": "ask", "jsonPath": "$.lines", "gt": 2}],
        },
        {"action": "pod.delete", "onFailure": "continue"},
        {
            "action": "pod.label",
            "name": "never",
            "with": {"labels": {"a": "b"}},
            "when": [{"field": "proc.name", "equals": "sh"}],
        },
    ],
}


@pytest.mark.parametrize(
    ("outcomes", "expect"),
    [
        ({}, {"actions": ["ask", "mark", "pod.delete"], "skipped": ["never"]}),
        ({"ask": {"answer": {"lines": 3}}}, {"actions": ["ask", "mark", "pod.delete"]}),
        ({"ask": {"answer": {"lines": 1}}}, {"skipped": ["mark", "never"]}),
        ({"ask": "done"}, {"skipped": ["mark", "never"], "actions": ["ask", "pod.delete"]}),
        ({"ask": "failed"}, {"actions": [], "skipped": ["mark", "pod.delete", "never"]}),
        ({"ask": "failed"}, {"finally": ["kubernetes.event"]}),
        ({"pod.delete": "failed"}, {"actions": ["ask", "mark"], "skipped": ["never"]}),
        ({"pod.delete": "refused"}, {"refused": ["pod.delete"]}),
        ({"pod.delete": "held"}, {"held": ["pod.delete"]}),
        ({"pod.delete": "skipped"}, {"skipped": ["pod.delete", "never"]}),
        ({"never": "done"}, {"skipped": ["never"]}),
        ({"ask": "failed"}, {"calls": [{"verb": "create", "body": {"message": "failed"}}]}),
    ],
)
def test_a_case_can_assume_the_outcome_of_steps(run, outcomes, expect):
    told = [{"action": "kubernetes.event", "with": {"message": "%steps.ask.state"}}]
    ends = {"name": "ends", "event": EVENT, "outcomes": outcomes, "expect": expect}
    code, out, err = run([ends], playbook={**STEPS, "finally": told})
    assert code == 0, out + err


def test_nothing_passes_if_nothing_is_planned(run):
    assert run([case({"nothing": True}, output_fields=SYSTEM)])[0] == 0


def test_events_of_a_case_share_a_throttle_and_cases_do_not(run):
    later = {**EVENT, "time": "2026-03-01T10:01:00Z"}
    row = {"name": "in a row", "events": [EVENT, later], "expect": ALL}
    assert run([row, case(ALL)])[0] == 0


def test_a_file_of_events_is_next_to_the_test(run, tmp_path):
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    given = {"name": "from a file", "eventFile": "event.json", "expect": ALL}
    assert run([given])[0] == 0
    code, _, err = run([{**given, "eventFile": "absent.json"}])
    assert code == 1
    assert "absent.json: No such file" in err


def test_only_objects_of_a_given_cluster_exist(run):
    assert (
        run(
            [case({"nothing": True, "skipped": ["mark", "pod.delete", "kubernetes.event"]})],
            cluster=[],
        )[0]
        == 0
    )


def test_uncovered_steps_are_reported_and_can_fail_the_command(run):
    quiet = [case({"nothing": True}, rule="Other")]
    code, out, _ = run(quiet)
    assert code == 0
    assert "kill.yaml:4:9: never run: kill" in out
    assert "0 % covered: 0 of 5 steps" in out
    assert run(quiet, "--coverage-threshold", "1")[0] == 1
    assert (
        run(
            [case(ALL), case({"nothing": True}, output_fields=SYSTEM)],
            "--coverage-threshold",
            "100",
        )[0]
        == 0
    )


def test_a_condition_is_covered_if_cases_make_it_true_and_not_true(run):
    line = "kill.yaml:14:5: never {}: kill: k8s.ns.name notIn [kube-system]"
    taken, left = case(ALL), case({"nothing": True}, output_fields=SYSTEM)
    unknown = case({"nothing": True}, output_fields={})
    assert line.format("false") in run([taken])[1]
    assert "80 % covered" in run([taken])[1]
    assert line.format("true") in run([left])[1]
    assert "kill.yaml:12:5: never planned: kill/pod.delete" in run([left])[1]
    for other in (left, unknown):
        assert " never " not in run([taken, other])[1]
    assert run([taken], "--coverage-threshold", "81")[0] == 1


def test_each_condition_of_a_group_and_of_a_when_is_counted(run):
    conditions = [
        {"any": [field("proc.name", "bash"), {"not": field("user.name", "root")}]},
        field("k8s.ns.name", "demo"),
    ]
    steps = [{"action": "pod.delete", "when": [field("k8s.pod.name", "web-0")]}]
    changed = {"conditions": conditions, "actions": steps}
    planned = {"actions": ["pod.delete"]}

    def gaps(*cases):
        told = run(list(cases), playbook=changed)[1].splitlines()
        return [line.split(": never ")[1] for line in told if ": never " in line]

    assert gaps(case(planned)) == [
        "false: kill/pod.delete: k8s.pod.name equals web-0",
        "false: kill: proc.name equals bash",
        "true: kill: user.name equals root",
        "false: kill: k8s.ns.name equals demo",
    ]
    # a `when` is not asked of an event that the playbook does not want
    assert gaps(case({"nothing": True}, output_fields={"user.name": "root"})) == [
        "planned: kill/pod.delete",
        "true or false: kill/pod.delete: k8s.pod.name equals web-0",
        "true: kill: proc.name equals bash",
        "false: kill: user.name equals root",
        "true: kill: k8s.ns.name equals demo",
        "planned: kill/kubernetes.event",
    ]


def test_a_condition_is_evaluated_only_for_events_that_match(run):
    other = case({"nothing": True}, rule="Other", output_fields=SYSTEM)
    assert "never false: kill: k8s.ns.name" in run([case(ALL), other])[1]


def test_a_case_covers_only_the_playbooks_that_it_tests(run, tmp_path):
    (tmp_path / "twin.yaml").write_text(yaml.safe_dump({**KILL, "metadata": {"name": "twin"}}))
    cases = [case(ALL), case({"nothing": True}, output_fields=SYSTEM)]
    out = run(cases, playbooks=["kill"])[1]
    assert "never run: twin" in out
    assert "50 % covered: 5 of 10" in out


def test_a_disabled_playbook_does_not_count_for_coverage(run):
    quiet = [case({"nothing": True}, rule="Other")]
    assert "100 % covered: 0 of 0" in run(quiet, playbook={"mode": "disabled"})[1]


def test_a_word_selects_cases_and_no_case_is_a_failure(run, tmp_path):
    code, _, err = run([case({"nothing": True})], "-k", "cass")
    assert (code, err) == (
        1,
        "No case was run: none of 1 case has `cass` in its name. Did you mean `case`?\n",
    )
    (tmp_path / "kill.test.yaml").unlink()
    assert "write a PlaybookTest" in CliRunner().invoke(cli, ["test", str(tmp_path)]).stderr


def test_the_outputs_for_tools_have_the_same_results(run):
    cases = [case(ALL), {**case({"nothing": True}), "name": "fails"}]
    _, out, err = run(cases, "-o", "json")
    assert [one["passed"] for one in json.loads(out)] == [True, False]
    assert "80 % covered" in err
    suite = ET.fromstring(run(cases, "-o", "junit")[1]).find("testsuite")  # noqa: S314 - our own output
    assert [len(one) for one in suite] == [0, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "x", "event": EVENT, "expect": {}}, "cannot fail"),
        ({"name": "x", "event": EVENT, "expect": {"onlyCalls": True}}, "cannot fail"),
        ({"name": "x", "event": EVENT, "expect": {"calls": []}}, "cannot fail"),
        ({"name": "x", "event": EVENT, "expect": {"calls": [], "onlyCalls": False}}, "cannot fail"),
        ({"name": "x", "event": EVENT, "expect": {"nothing": False}}, "`nothing` is true"),
        (
            {"name": "x", "eventFile": "blank.json", "expect": {"nothing": True}},
            "contains no event",
        ),
        ({"name": "x", "eventFile": "none.json", "expect": {"nothing": True}}, "contains no event"),
        (
            {"name": "x", "event": EVENT, "outcomes": {"marks": "done"}, "expect": ALL},
            "is called `marks` (mark)",
        ),
        (
            {"name": "x", "event": EVENT, "outcomes": {"mark": "fine"}, "expect": ALL},
            "the outcome of `mark` is one of done, failed",
        ),
        (
            {"name": "x", "event": EVENT, "expect": {"action": ["a"]}},
            "there is no key `action` here",
        ),
        ({"name": "x", "expect": ALL}, "`event`, `events` and `eventFile`"),
        ({"name": "x", "event": {"priority": "Notice"}, "expect": ALL}, "not an event: `rule`"),
    ],
)
def test_a_broken_test_is_an_error_of_check_and_does_not_prevent_loading(
    run, tmp_path, wrong, said
):
    (tmp_path / "blank.json").write_text(" \n")
    (tmp_path / "none.json").write_text("[]")
    code, _, err = run([wrong])
    assert code == 1
    assert said in err
    checked = CliRunner().invoke(cli, ["check", str(tmp_path)])
    assert checked.exit_code == 1
    assert said in checked.stdout
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    assert (
        CliRunner().invoke(cli, ["plan", str(tmp_path), str(tmp_path / "event.json")]).exit_code
        == 0
    )


def test_the_shipped_playbooks_pass_their_tests_without_a_warning():
    folder = str(ROOT / "playbooks")
    assert CliRunner().invoke(cli, ["check", "--strict", folder]).exit_code == 0
    tested = CliRunner().invoke(cli, ["test", folder, "--coverage-threshold", "100"])
    assert tested.exit_code == 0, tested.output


def test_only_files_with_an_error_are_parsed_again(tmp_path, monkeypatch):
    (tmp_path / "kill.yaml").write_text(yaml.safe_dump(KILL))
    broken = {**KILL, "metadata": {"name": "broken"}, "spec": {}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    spec = {"playbooks": ["kill", "broken"], "cases": [case(ALL)]}
    test = {**KILL, "kind": "PlaybookTest", "spec": spec}
    (tmp_path / "kill.test.yaml").write_text(yaml.safe_dump(test))
    files = read_files([tmp_path])
    found = new_loader().load(files)
    parsed = []

    def record(content, file):
        parsed.append(Path(file).name)
        return read(content, file)

    monkeypatch.setattr(engine.preview.test_cases, "read", record)
    cases, findings = read_cases(files, found)
    assert ([one.name for one in cases], findings) == (["a case"], [])
    assert parsed == ["broken.yaml"]
