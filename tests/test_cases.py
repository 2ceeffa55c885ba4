"""`tiercel test`: two ways, so that an unexpected action fails a case as a missing one does."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from click.testing import CliRunner
from engine.cli.command import cli

ROOT = Path(__file__).parents[1]
EVENT = {
    "rule": "Shell",
    "time": "2026-03-01T10:00:00Z",
    "output_fields": {"k8s.ns.name": "demo", "k8s.pod.name": "web-0", "proc.name": "bash"},
}
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
    """Runs `tiercel test` on the playbook and the cases: the exit code, stdout, stderr."""

    def run(cases, *flags, **spec):
        test = {
            **{key: KILL[key] for key in ("apiVersion", "metadata")},
            "kind": "PlaybookTest",
            "spec": {"cases": cases, **spec},
        }
        (tmp_path / "kill.yaml").write_text(yaml.safe_dump(KILL))
        (tmp_path / "kill.test.yaml").write_text(yaml.safe_dump(test))
        done = CliRunner().invoke(cli, ["test", str(tmp_path), *flags])
        return done.exit_code, done.stdout, done.stderr

    return run


def case(expect, **event):
    return {"name": "a case", "event": {**EVENT, **event}, "expect": expect}


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
def test_a_case_that_is_as_expected_holds(run, expect):
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
def test_a_case_that_is_otherwise_fails_and_says_how(run, expect, said):
    code, out, _ = run([case(expect)])
    assert code == 1
    assert said in out
    assert "0 cases passed, 1 failed" in out


def test_what_is_left_alone_is_nothing(run):
    system = {**EVENT["output_fields"], "k8s.ns.name": "kube-system"}
    assert run([case({"nothing": True}, output_fields=system)])[0] == 0


def test_events_in_a_row_share_a_throttle_and_cases_do_not(run):
    later = {**EVENT, "time": "2026-03-01T10:01:00Z"}
    row = {"name": "in a row", "events": [EVENT, later], "expect": ALL}
    assert run([row, case(ALL)])[0] == 0


def test_a_file_of_events_stands_beside_the_test(run, tmp_path):
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    given = {"name": "from a file", "eventFile": "event.json", "expect": ALL}
    assert run([given])[0] == 0
    code, _, err = run([{**given, "eventFile": "absent.json"}])
    assert code == 1
    assert "absent.json: No such file" in err


def test_a_given_cluster_is_all_there_is(run):
    assert (
        run(
            [case({"nothing": True, "skipped": ["mark", "pod.delete", "kubernetes.event"]})],
            cluster=[],
        )[0]
        == 0
    )


def test_steps_that_no_case_plans_are_told_and_can_fail(run):
    quiet = [case({"nothing": True}, rule="Other")]
    code, out, _ = run(quiet)
    assert code == 0
    assert "never planned: kill/pod.delete" in out
    assert run(quiet, "--coverage-threshold", "1")[0] == 1
    assert run([case(ALL)], "--coverage-threshold", "100")[0] == 0


def test_a_word_chooses_cases_and_none_is_a_failure(run):
    assert run([case({"nothing": True})], "-k", "absent")[0] == 1


def test_the_outputs_for_tools_say_the_same(run):
    cases = [case(ALL), {**case({"nothing": True}), "name": "fails"}]
    told = json.loads(run(cases, "-o", "json")[1])
    assert [one["passed"] for one in told] == [True, False]
    suite = ET.fromstring(run(cases, "-o", "junit")[1]).find("testsuite")  # noqa: S314 - our own output
    assert [len(one) for one in suite] == [0, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "x", "event": EVENT, "expect": {}}, "cannot fail"),
        ({"name": "x", "event": EVENT, "expect": {"action": ["a"]}}, "`action` is not known here"),
        ({"name": "x", "expect": ALL}, "`event`, `events` and `eventFile`"),
        ({"name": "x", "event": {"priority": "Notice"}, "expect": ALL}, "no event: `rule`"),
    ],
)
def test_a_broken_test_is_an_error_of_check_and_keeps_no_set_from_loading(
    run, tmp_path, wrong, said
):
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


def test_the_playbooks_that_ship_pass_their_tests_without_a_warning():
    folder = str(ROOT / "playbooks")
    assert CliRunner().invoke(cli, ["check", "--strict", folder]).exit_code == 0
    tested = CliRunner().invoke(cli, ["test", folder, "--coverage-threshold", "100"])
    assert tested.exit_code == 0, tested.output
