"""Adoption: policies of a lost journal are added to the new journal and undone on time."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import msgspec
import pytest
from engine.actions.registry import load_actions
from engine.execution.adoption import Adoption, adopt
from engine.journal.records import Decision
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import PermanentError, TemporaryError
from engine.model.event import format_time
from tests.contracts.test_actions import NOW, act, alert, claim_of, undo, world
from tests.support.engine import PATIENCE
from tests.support.fakes import FakeAttemptStore
from tests.support.journals import over
from tests.support.playbooks import playbook_from_snapshot

ISOLATE = load_actions()["pod.isolate"]
HOUR = 3600.0


@pytest.fixture
def journal(tmp_path):
    journal = SqliteJournal(tmp_path / "journal.db", playbook_from_snapshot)
    yield journal
    journal.close()


def isolated(ttl="1h", run="event"):
    """Return a server on which a run has isolated a pod, the attempt store of the run, and its claim."""
    server, store = world(), FakeAttemptStore()
    claim = claim_of(ISOLATE, {"ttl": ttl} if ttl else {}, alert(), run=run)
    act(server, claim, store=store)
    return server, store, claim


def policy(server):
    return server.objects[key(server)]


def key(server):
    return next(k for k in server.objects if k[2].startswith("tiercel-"))


def test_policy_of_a_lost_journal_is_undone_on_time(journal):
    server, _, claim = isolated()
    before = world().state()
    assert adopt(server.cluster, journal, NOW) == 1
    record = journal.find(claim.run.id)
    assert (record.run.playbook.name, record.run.event.rule) == ("p", "Terminal shell")
    assert (record.run.target, record.outcome) == ("demo/web-0", "done")
    assert record.undo == {"pod.isolate": NOW + HOUR}
    assert journal.claim("cluster", 9, NOW + HOUR - 1) == []
    (undoing,) = journal.claim("cluster", 9, NOW + HOUR)
    assert undo(server, replace(undoing, undo=None), UndoStore(undoing)).state == "undone"
    assert server.state() == before


def test_the_destinations_of_a_block_are_adopted_with_its_policy(journal):
    server, store = world(), FakeAttemptStore()
    before = server.state()
    block = load_actions()["pod.block"]
    claims = [
        claim_of(block, {"ttl": "1h"}, alert(**{"fd.rip": f"198.51.100.{n}"}), run=str(n))
        for n in (1, 2)
    ]
    for claim in claims:
        act(server, claim, store=store)
    assert adopt(server.cluster, journal, NOW) == 1
    (undoing,) = journal.claim("cluster", 9, NOW + HOUR)
    assert undoing.run.id == claims[1].run.id
    assert undoing.step.action == "pod.block"
    assert len(undoing.changes) == 4
    assert undo(server, replace(undoing, undo=None), UndoStore(undoing)).state == "undone"
    assert server.state() == before


@pytest.mark.parametrize("provider", ["cilium", "calico", "cluster"])
def test_policies_of_other_kinds_are_adopted(journal, provider):
    server, store = world(), FakeAttemptStore()
    before = server.state()
    claim = claim_of(ISOLATE, {"ttl": "1h", "provider": provider}, alert())
    act(server, claim, store=store)
    assert adopt(server.cluster, journal, NOW) == 1
    (undoing,) = journal.claim("cluster", 9, NOW + HOUR)
    undo(server, replace(undoing, undo=None), UndoStore(undoing))
    assert server.state() == before


def detached(provider="kubernetes"):
    server = world()
    given = {"ttl": "1h", "detach": True, "provider": provider}
    act(server, claim_of(ISOLATE, given, alert()), store=FakeAttemptStore())
    assert "app" not in labels(server)
    return server


def labels(server):
    return server.find("Pod", "web-0", "demo")["metadata"]["labels"]


def undo_all(server, journal):
    """Undo what is due after the ttl. Return how many undos there were."""
    number, now = 0, NOW + HOUR
    while undos := journal.claim("cluster", 9, now):
        for one in undos:
            outcome = act(server, one, store=journal)
            assert outcome.state == "undone", outcome.message
            assert journal.settle(one, outcome, now)
            number += 1
    return number


@pytest.mark.parametrize("provider", ["kubernetes", "cluster"])
def test_the_labels_that_a_detach_removed_are_restored(journal, provider):
    server, before = detached(provider), world().state()
    assert adopt(server.cluster, journal, NOW) == 1
    assert undo_all(server, journal) == 1
    assert server.state() == before


def test_a_label_that_someone_set_on_a_detached_pod_stays(journal):
    server = detached()
    labels(server)["app"] = "forensics"
    adopt(server.cluster, journal, NOW)
    undo_all(server, journal)
    assert labels(server) == {"app": "forensics"}


@pytest.mark.parametrize(
    "note",
    [
        "[[[", "[" * 100_000, '{"app": 7}', '{"app": "a b"}', '{"a/b/c": "x"}', '["app"]',
        json.dumps({f"label-{number}": "x" for number in range(101)}),
        json.dumps({"tiercel.dev/quarantine": "x"}),
    ],
    ids=lambda note: note[:20],
)  # fmt: skip
def test_a_note_about_removed_labels_that_is_not_valid_restores_none(journal, note):
    server = detached()
    policy(server)["metadata"]["annotations"]["tiercel.dev/removed-labels"] = note
    assert adopt(server.cluster, journal, NOW) == 1
    assert undo_all(server, journal) == 1
    assert labels(server) == {}


def test_a_policy_of_a_namespace_names_no_pod_of_another_one(journal):
    server = detached()
    theirs = copy.deepcopy(server.find("Pod", "web-0", "demo"))
    theirs["metadata"] |= {"namespace": "other", "uid": "u-1"}
    server.put(theirs)
    metadata = policy(server)["metadata"]
    del metadata["ownerReferences"]
    metadata["annotations"]["tiercel.dev/pod"] = "other/web-0/u-1"
    before = copy.deepcopy(server.find("Pod", "web-0", "other"))
    assert adopt(server.cluster, journal, NOW) == 1
    undo_all(server, journal)
    assert server.find("Pod", "web-0", "other") == before


@pytest.mark.parametrize("bad", ["../../x", "", None, "a" * 300])
def test_a_reference_to_a_pod_that_no_pod_can_have_is_left_out(journal, bad):
    server = isolated()[0]
    policy(server)["metadata"]["ownerReferences"][0]["name"] = bad
    assert adopt(server.cluster, journal, NOW) == 1
    (undoing,) = journal.claim("cluster", 9, NOW + HOUR)
    assert [change.kind.kind for change in undoing.changes] == ["NetworkPolicy"]


def test_all_policies_of_one_run_are_adopted(journal):
    server, store = world(), FakeAttemptStore()
    steps = [("pod.block", {}, "one"), ("pod.block", {}, "two"), ("pod.isolate", {}, "three")]
    provider = {"provider": "cilium", "ttl": "1h"}
    for action, given, name in steps:
        claim = claim_of(load_actions()[action], {**provider, **given}, alert())
        step = msgspec.structs.replace(claim.step, name=name)
        playbook = replace(claim.run.playbook, steps=(step,))
        run = msgspec.structs.replace(claim.run, playbook=playbook)
        act(server, replace(claim, run=run), store=store)
    before = world().state()
    assert adopt(server.cluster, journal, NOW) == 3
    record = journal.find(claim.run.id)
    assert len(record.undo) == 3
    assert {one.state for one in record.results} == {"done"}
    assert adopt(server.cluster, journal, NOW) == 0
    assert undo_all(server, journal) == 3
    assert server.state() == before


def test_a_policy_that_is_undone_during_the_adoption_is_not_adopted(journal):
    server, _, claim = isolated()
    stale = copy.deepcopy(policy(server))
    assert adopt(server.cluster, journal, NOW) == 1
    assert undo_all(server, journal) == 1
    server.put(stale)  # as listed before the undo
    assert adopt(server.cluster, journal, NOW) == 0
    assert journal.find(claim.run.id).undo == {}


def applied(manager):
    """Return a server on which resource.apply created a policy, as the field manager says."""
    server, store = world(), FakeAttemptStore()
    manifest = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "incident", "namespace": "demo"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }  # fmt: skip
    apply = load_actions()["resource.apply"]
    outcome = act(
        server, claim_of(apply, {"manifest": manifest, "ttl": "1h"}, alert()), store=store
    )
    assert outcome.state == "done", outcome.message
    made = server.find("NetworkPolicy", "incident", "demo")
    fields = {"f:metadata": {"f:labels": {"f:app.kubernetes.io/managed-by": {}}}}
    made["metadata"]["managedFields"] = [
        {"manager": manager, "operation": "Apply", "fieldsV1": fields}
    ]
    return server


def test_a_policy_of_resource_apply_is_adopted_and_deleted(journal):
    server, before = applied("tiercel"), world().state()
    assert adopt(server.cluster, journal, NOW) == 1
    (undoing,) = journal.claim("cluster", 9, NOW + HOUR)
    assert undoing.step.action == "resource.apply"
    assert undo(server, replace(undoing, undo=None), UndoStore(undoing)).state == "undone"
    assert server.state() == before


def test_a_copy_of_such_a_policy_is_not_adopted(journal):
    server = applied("kubectl")
    assert adopt(server.cluster, journal, NOW) == 0


def test_kinds_without_the_right_to_list_them_are_not_adopted(journal):
    server, _, _ = isolated()
    cluster = server.cluster

    class WithoutOthers(Answering):
        def list(self, kind, namespace=None, *, node=None):
            if kind.api_version != "networking.k8s.io/v1":
                raise PermanentError("403")
            return super().list(kind, namespace, node=node)

    assert adopt(WithoutOthers(cluster), journal, NOW) == 1


@pytest.mark.parametrize(
    ("blob", "revision", "known"),
    [
        ("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "v1.2", True),
        ("../../x", "\x1b]0;owned\x07", False),
        (None, None, False),
    ],
)
def test_an_adopted_run_has_the_blob_and_the_revision_of_its_policy(journal, blob, revision, known):
    server, _, claim = isolated()
    annotations = policy(server)["metadata"]["annotations"]
    annotations |= {"tiercel.dev/blob": blob, "tiercel.dev/revision": revision}
    assert adopt(server.cluster, journal, NOW) == 1
    run = journal.find(claim.run.id).run
    assert (run.playbook.blob, run.revision) == ((blob, revision) if known else ("", ""))


class UndoStore(FakeAttemptStore):
    """An attempt store that returns the undo claim of a journal."""

    def __init__(self, claim):
        super().__init__()
        self.claim = claim

    def undoing(self, _):
        return self.claim


def test_policy_that_is_in_the_journal_is_not_adopted_again(journal):
    server = isolated()[0]
    assert adopt(server.cluster, journal, NOW) == 1
    assert adopt(server.cluster, journal, NOW) == 0


def test_policy_without_expiry_can_be_undone_on_request(journal):
    server, _, claim = isolated(ttl=None)
    assert adopt(server.cluster, journal, NOW) == 1
    assert journal.next_due("cluster") is None
    assert journal.undo(claim.run.id, Decision("undo", "alice", NOW)) == ["pod.isolate"]


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("labels",), {"app.kubernetes.io/managed-by": "helm"}),
        (("labels", "tiercel.dev/playbook"), "No Name"),
        (("labels", "tiercel.dev/playbook"), None),
        (("annotations",), {}),
        (("annotations", "tiercel.dev/run"), "../../x"),
        (("name",), "tiercel-default"),
    ],
)
def test_foreign_or_modified_policy_is_not_adopted(journal, where, what):
    server = isolated()[0]
    *path, last = ("metadata", *where)
    changed = copy.deepcopy(policy(server))
    at = changed
    for part in path:
        at = at[part]
    at[last] = what
    del server.objects[key(server)]
    server.put(changed)
    assert adopt(server.cluster, journal, NOW) == 0
    assert over(journal) == 0


def test_unreadable_expiry_means_on_request(journal):
    server, _, claim = isolated()
    policy(server)["metadata"]["annotations"]["tiercel.dev/expires-at"] = "soon"
    assert adopt(server.cluster, journal, NOW) == 1
    assert journal.find(claim.run.id).undo == {"pod.isolate": None}


def test_retention_of_an_adopted_run_starts_at_its_adoption(journal):
    server, _, claim = isolated(ttl=None)
    assert adopt(server.cluster, journal, NOW + 90 * 24 * HOUR) == 1
    assert journal.delete_runs(NOW + 60 * 24 * HOUR) == 0
    assert journal.find(claim.run.id) is not None
    assert journal.undo(claim.run.id, Decision("undo", "alice", NOW)) == ["pod.isolate"]


def test_expiry_annotation_is_utc_in_whole_seconds():
    server = isolated()[0]
    told = policy(server)["metadata"]["annotations"]["tiercel.dev/expires-at"]
    assert told == format_time(int(NOW + HOUR) * 1_000_000_000)


class Answering:
    """A cluster that raises the given errors, then answers."""

    def __init__(self, cluster, *errors):
        self.cluster, self.errors = cluster, list(errors)

    def serves(self, kind):
        return self.cluster.serves(kind)

    def list(self, kind, namespace=None, *, node=None):
        if self.errors:
            raise self.errors.pop(0)
        return self.cluster.list(kind, namespace, node=node)


def begin(cluster, journal, monkeypatch):
    monkeypatch.setattr("engine.execution.adoption._FIRST_WAIT", 0.001)
    woken = []
    adoption = Adoption(cluster, journal, lambda: woken.append(1), lambda: NOW)
    adoption.start()
    adoption._thread.join(PATIENCE)
    assert not adoption._thread.is_alive()
    return woken


def test_adoption_is_retried_until_the_cluster_answers(journal, monkeypatch):
    cluster = Answering(isolated()[0].cluster, TemporaryError("away"), TemporaryError("away"))
    assert begin(cluster, journal, monkeypatch) == [1]
    assert over(journal) == 1


def test_adoption_without_the_right_to_list_ends_the_thread_only(journal, monkeypatch):
    cluster = Answering(isolated()[0].cluster, PermanentError("403"))
    assert begin(cluster, journal, monkeypatch) == []


@pytest.mark.parametrize(("name", "adopted"), [("responder", 1), ("a\nX: y", 0)])
def test_an_adopted_policy_is_undone_as_the_account_of_its_run(journal, name, adopted):
    server = isolated()[0]
    policy(server)["metadata"]["annotations"]["tiercel.dev/run-as"] = name
    assert adopt(server.cluster, journal, NOW) == adopted
    undoing = journal.claim("cluster", 9, NOW + HOUR)
    assert [one.run.playbook.run_as for one in undoing] == ["responder"] * adopted


def test_a_policy_names_the_account_of_its_run():
    server, store = world(), FakeAttemptStore()
    claim = claim_of(ISOLATE, {}, alert())
    assert "tiercel.dev/run-as" not in policy(isolated()[0])["metadata"]["annotations"]
    playbook = replace(claim.run.playbook, run_as="responder")
    act(
        server,
        replace(claim, run=msgspec.structs.replace(claim.run, playbook=playbook)),
        store=store,
    )
    assert policy(server)["metadata"]["annotations"]["tiercel.dev/run-as"] == "responder"
