"""The contract of an action, as tests that run on a real API server.

Subclass ``ActionContract`` in a test module, and name the actions.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
import yaml
from engine.actions.owners import OWNERS
from engine.actions.parameters import Text
from engine.actions.rbac import rights
from engine.actions.registry import load_actions
from engine.artifacts.api import ArtifactRecorder
from engine.artifacts.live_store import LiveArtifactStore
from engine.cluster.api import NAMESPACE, POD, CallRecorder
from engine.cluster.kinds import KINDS
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.language.compile import playbook_from_snapshot
from engine.language.folder import Files
from engine.language.loader import Loader
from engine.model.errors import PlaybookError
from engine.model.event import parse_event
from engine.model.run import Claim, Run
from engine.outbound.api import RequestRecorder

from tiercel.testing.server import KilledError, Traffic
from tiercel.testing.store import MemoryStore
from tiercel.testing.world import content, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.actions.registry import Action, Right
    from engine.model.calls import Kind, Object
    from engine.model.event import Event
    from engine.model.playbook import Playbook
    from engine.model.run import Outcome

    from tiercel.testing.world import World

_MAX_ATTEMPTS = 5
"""Attempts of a step that waits for its own changes to take effect."""
HOSTILE = {
    "NUL": "a\0b",
    "newline": "a\nkind: Secret",
    "parent": "../../../kube-system/secrets",
    "long": "x" * 100_000,
    "template": "%rule ${secret}",
    "right-to-left": "safe\u202egnp.exe",
}
"""Values of an event that an attacker can choose."""


@dataclass(frozen=True)
class Case:
    """One way to use an action.

    Attributes:
        action: its name.
        parameters: as under ``with``; None for the example of the action.
        owners: the kinds of controllers that own the pod, one after the other; None for those that the rights of
            the step name. "" is a pod without a controller.
        event: returns the output fields of the event; None for an event that names the target.
        prepare: creates further objects, before each attempt that changes something.
        runs: whether the pod must run on a node of the cluster, for logs and commands.

    """

    action: str
    parameters: Mapping[str, Any] | None = None
    owners: Sequence[str] | None = None
    event: Callable[[World, Object], Mapping[str, Any]] | None = None
    prepare: Callable[[World], object] = lambda _: None
    runs: bool = False

    @functools.cached_property
    def registered(self) -> Action:
        """The action in the registry."""
        return load_actions()[self.action]

    @property
    def document(self) -> dict[str, Any]:
        """A playbook with one step, as YAML."""
        given = self.registered.example if self.parameters is None else self.parameters
        return {
            "apiVersion": "tiercel.dev/v1",
            "kind": "Playbook",
            "metadata": {"name": "contract"},
            "spec": {
                "match": {"rules": ["Contract"]},
                "conditions": [{"field": "k8s.ns.name", "exists": True}],
                "throttle": {"once": "1m"},
                "actions": [{"action": self.action, "name": "it", "with": dict(given)}],
            },
        }


@dataclass
class Scene:
    """A target and an event about it, for the attempts of one run.

    now: the time of all attempts, epoch seconds. With the real time, a second attempt would sometimes write an
    end that is a second later.
    """

    target: Object
    event: Event
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    store: MemoryStore = field(default_factory=MemoryStore)
    now: float = field(default_factory=time.time)


class Contract:
    """A case in a world. Its methods make attempts with chosen rights."""

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.world, self.server = case, world, world.server
        content = yaml.safe_dump(case.document).encode()
        self.findings = Loader(load_actions()).load(Files("", {"contract.yaml": content})).findings
        self.playbook = _playbook(case)
        self.needed = rights([self.playbook])

    @property
    def target(self) -> str | None:
        """What the step acts on."""
        return self.case.registered.target(self.playbook.steps[0].effect)

    def owners(self) -> Sequence[str]:
        """Return the kinds of controllers with which the case is tested."""
        if self.case.owners is not None:
            return self.case.owners
        resources = {resource.partition("/")[0].partition(".")[0] for _, resource in self.needed}
        named = [kind for kind, it in OWNERS.items() if it.resource in resources]
        return named or [""]

    def shapes(self) -> list[str]:
        """Return the ways in which the event names the target."""
        if self.case.event or self.target is None:
            return ["pod"]
        if self.target == "resource":
            return ["audit"]
        effect = self.playbook.steps[0].effect
        return [
            *("pod", "container"),
            *(["node"] if self.target in ("node", "subject") else []),
            # the engine looks whether the host of the event is another node
            *(["host"] if effect not in ("mark", "disrupt") else []),
        ]

    def scene(self, owner: str = "", shape: str = "pod") -> Scene:
        """Create a target, and an event about it."""
        world, fields, hostname = self.world, {}, ""
        world.reset()
        self.case.prepare(world)
        if shape == "audit":
            kind = self._kind()
            target = world.new_object(kind)
            place = {"resource": kind.resource, "name": target["metadata"]["name"]}
            place |= {"namespace": world.name} if kind.namespaced else {}
            fields = {f"ka.target.{key}": value for key, value in place.items()}
        else:
            target = world.new_pod(owner, runs=self.case.runs)
            hostname = "other" if shape == "host" else target["spec"]["nodeName"]
            if self.case.event:
                fields = dict(self.case.event(world, target))
            elif shape == "container":
                (status,) = target["status"]["containerStatuses"]
                fields = {"container.id": status["containerID"].rpartition("/")[2][:12]}
            elif shape != "node":
                metadata = target["metadata"]
                fields = {"k8s.ns.name": world.name, "k8s.pod.name": metadata["name"]}
        return Scene(target, _event(fields, hostname))

    def attempt(
        self,
        scene: Scene,
        needed: frozenset[Right] | None = None,
        traffic: Traffic | None = None,
        *,
        playbook: Playbook | None = None,
        dry: bool = False,
        undo: bool = False,
        again: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Make one attempt, or undo the step.

        needed: the rights of the client; None for those that the case needs. playbook: in place of the case's.
        dry: send nothing that changes
        something. again: the attempt after one that was interrupted. state: attempt state to begin with.
        """
        traffic = traffic or Traffic()
        cluster = self.server.cluster(self.needed if needed is None else needed, traffic)
        recorder = CallRecorder(cluster, cluster.with_dry_run() if dry else cluster)
        http = RequestRecorder(None)
        artifacts = ArtifactRecorder(http.requests, None if dry else LiveArtifactStore(None))
        clients = Clients(recorder, http, dry=dry, artifacts=artifacts)
        claim = self._claim(playbook or self.playbook, scene, again=again, state=state)
        claim = scene.store.undoing(claim) if undo else claim
        return attempt(claim, clients, GuardrailChecker(), scene.now, scene.store)

    def complete(self, scene: Scene, traffic: Traffic | None = None, **options: Any) -> Outcome:
        """Make attempts until the step or its undo is over. Between them, pods that terminate end."""
        outcome = self.attempt(scene, traffic=traffic, **options)
        for _ in range(_MAX_ATTEMPTS):
            if outcome.state != "waiting" or "missing right" in outcome.message:
                break
            self.world.end_pods()
            outcome = self.attempt(scene, traffic=traffic, **options)
        return outcome

    @functools.cached_property
    def places(self) -> dict[tuple[str, str], set[Right]]:
        """The kinds of controllers and of events with which the step does something, and the rights of each.

        The first access runs the step for each of them (see ``is_dry``).
        """
        found = {}
        self.used: set[Right] = set()
        first, *others = self.owners()
        for place in (
            *((first, shape) for shape in self.shapes()),
            *((it, "pod") for it in others),
        ):
            done, used = _walk(self, self.scene(*place), dry=self.is_dry(place[0]))
            self.used |= used
            if done:
                found[place] = used
        assert found, f"{self.case.action} does nothing; give a Case with which it does something"
        return found

    def is_dry(self, owner: str) -> bool:
        """Return whether a dry run suffices for a kind of controller: for all but the first, without an undo."""
        return owner != self.owners()[0] and not self.case.registered.undoable

    def new_scene(self) -> Scene:
        """Return a scene in which the step does something."""
        return self.scene(*next(iter(self.places)))

    def _claim(
        self, playbook: Playbook, scene: Scene, *, again: bool, state: Mapping[str, Any] | None
    ) -> Claim:
        event = scene.event
        run = Run(scene.run, playbook, event, event.time, "target")
        kept = dict(scene.store.attempt_state if state is None else state)
        return Claim(
            run,
            0,
            attempt=2 if again else 1,
            interrupted=again,
            began=event.time,
            attempt_state=kept,
        )

    def _kind(self) -> Kind:
        given = self.case.document["spec"]["actions"][0]["with"]
        return KINDS[given["kinds"][0]]


class ActionContract:
    """The contract suite.

    actions: names of actions; each is tested with its example. cases: what to test besides, or in place of the
    example of an action that it names.
    """

    actions: ClassVar[Sequence[str]] = ()
    cases: ClassVar[Sequence[Case]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test with each case."""
        if "contract" in metafunc.fixturenames:
            given = {case.action for case in self.cases}
            cases = [*self.cases, *(Case(name) for name in self.actions if name not in given)]
            ids = [
                f"{case.action}-{n}" if case.parameters else case.action
                for n, case in enumerate(cases)
            ]
            metafunc.parametrize("contract", cases, ids=ids, indirect=True, scope="class")

    def test_the_example_is_valid_and_documented(self, contract: Contract) -> None:
        """The playbook has no findings, and every parameter is described."""
        assert not contract.findings
        action = contract.case.registered
        assert action.doc.split("\n")[0].rstrip().endswith(".")
        assert [name for name, one in action.parameters.items() if not one.doc] == []

    def test_a_dry_run_changes_nothing_and_the_declared_rights_are_exactly_those_used(
        self, contract: Contract
    ) -> None:
        """Dry run, run, second run and undo, for each kind of controller and of event."""
        assert contract.places
        assert contract.used - contract.needed == set(), "used and not declared"
        assert contract.needed - contract.used == set(), "declared and not used"

    def test_a_missing_right_is_named(self, contract: Contract) -> None:
        """Without any one of the rights, the step or its undo fails, and the message names the right."""
        places = {
            right: place for place, used in reversed(contract.places.items()) for right in used
        }
        scene: Scene | None = None
        last: tuple[str, str] | None = None
        # a right without a place is used where the step does nothing
        for right, place in sorted(places.items(), key=lambda item: (item[1], item[0])):
            if scene is None or place != last:
                scene, last = contract.scene(*place), place
            scene = replace(scene, store=MemoryStore(), run=secrets.token_hex(16))
            traffic, needed = Traffic(), contract.needed - {right}
            dry = contract.is_dry(place[0])
            outcome = contract.complete(scene, traffic, needed=needed, dry=dry)
            if outcome.state == "done":
                outcome = contract.complete(scene, traffic, needed=needed, again=True)
            if outcome.state == "done":
                outcome = contract.complete(scene, traffic, needed=needed, undo=True)
            # an undo is tried again until somebody grants the right
            assert outcome.state in ("failed", "waiting"), (right, outcome)
            verbs, _, resource = outcome.message.rpartition("missing right: ")[2].partition(" on ")
            assert right[0] in verbs.split(" and "), (right, outcome.message)
            assert resource.startswith(right[1].partition(".")[0]), (right, outcome.message)
            scene = None if traffic.writes else scene

    def test_after_a_kill_at_each_write_a_second_attempt_completes_the_step(
        self, contract: Contract
    ) -> None:
        """The process ends before the first write, and after each. Then it starts again."""
        if not contract.case.registered.repeatable:
            outcome = contract.attempt(contract.new_scene(), again=True)
            assert outcome.state == "failed"
            assert "may have run" in outcome.message
            return
        whole = Traffic()
        contract.complete(contract.new_scene(), whole)
        for kill_after in range(whole.writes + 1) if whole.writes else ():
            scene = contract.new_scene()
            calls = contract.attempt(scene, dry=True).calls
            before = contract.world.state(calls)
            with pytest.raises(KilledError):
                contract.complete(scene, Traffic(kill_after=kill_after))
            outcome = contract.complete(scene, again=True)
            assert outcome.state == "done", (kill_after, outcome)
            if contract.case.registered.undoable:
                assert contract.complete(scene, undo=True).state == "undone"
                assert _unchanged(before, contract.world.state(calls))

    def test_a_target_that_is_gone_replaced_terminating_or_protected_is_not_changed(
        self, contract: Contract
    ) -> None:
        """The step is skipped or refused, and nothing is written."""
        effect = contract.playbook.steps[0].effect
        if contract.target not in ("pod", "subject") or effect not in ("mark", "disrupt"):
            pytest.skip("the action does not change a pod")
        world, scene = contract.world, contract.new_scene()
        _expect(contract, scene, "skipped", state={"uid": "another"})
        world.server.patch(NAMESPACE, _named(world.name), _label("true"))
        try:
            _expect(contract, scene, "refused")
        finally:
            world.server.patch(NAMESPACE, _named(world.name), _label(None))
        metadata = scene.target["metadata"]
        if contract.target == "pod":
            held = {"metadata": {"finalizers": ["tiercel.dev/contract"]}}
            world.server.patch(POD, scene.target, held)
            world.server.delete(POD, metadata["name"], world.name)
            _expect(contract, scene, "skipped")
            world.server.patch(POD, scene.target, {"metadata": {"finalizers": None}})
        world.server.delete(POD, metadata["name"], world.name, gracePeriodSeconds=0)
        _expect(contract, scene, "skipped")

    def test_an_object_of_the_same_name_that_is_not_of_the_engine_is_not_changed(
        self, contract: Contract
    ) -> None:
        """The step fails. The message says that the object was not created by the engine."""
        scene = contract.new_scene()
        calls = contract.attempt(scene, dry=True).calls
        for call in calls:
            if call.verb not in ("create", "apply") or "/" in call.resource:
                continue
            foreign = {**call.body, "metadata": {"name": call.name, "namespace": call.namespace}}
            kind = kind_of(call)
            foreign = contract.server.create(kind, foreign)
            outcome = contract.attempt(scene)
            assert outcome.state == "failed", outcome
            assert "not created by Tiercel" in outcome.message
            found = contract.server.admin.get(kind, call.name, call.namespace)
            assert found is not None
            assert content(found) == content(foreign)
            contract.server.delete(kind, call.name, call.namespace)

    def test_a_hostile_value_ends_in_a_refusal_or_in_the_calls_of_a_harmless_one(
        self, contract: Contract
    ) -> None:
        """No text of an event leads to a call about another object, or to one that the API server refuses."""
        scene = contract.new_scene()
        for playbook in _templated(contract.case):
            harmless = _places_of(contract.attempt(scene, playbook=playbook, dry=True))
            for text in HOSTILE.values():
                event = _with_fields(scene.event, {"proc.cmdline": text})
                hostile = replace(scene, event=event)
                outcome = contract.attempt(hostile, playbook=playbook, dry=True)
                assert outcome.state in ("planned", "refused", "skipped"), (text, outcome)
                assert outcome.state != "planned" or _places_of(outcome) == harmless


def _walk(contract: Contract, scene: Scene, *, dry: bool) -> tuple[bool, set[Right]]:
    """Dry run, run, second run and undo of a step; with ``dry``, only the dry run.

    Return whether the step did something, and the rights that were used. A step that skips a kind of controller
    does nothing.
    """
    traffic, action, world = Traffic(), contract.case.registered, contract.world
    planned = contract.attempt(scene, traffic=traffic, dry=True)
    assert traffic.writes == 0
    if planned.state == "skipped":
        return False, traffic.rights
    assert planned.state == "planned", planned
    if dry:
        return True, traffic.rights
    calls = planned.calls
    before = world.state(calls)
    done = contract.complete(scene, traffic)
    assert done.state == "done", done
    once = world.state(calls)
    assert contract.case.runs or not calls or once != before  # a command does not change its pod
    if action.repeatable:
        again = contract.complete(scene, traffic, again=True)
        assert again.state == "done", again
        assert world.state(calls) == once
    if action.undoable:
        undone = contract.complete(scene, traffic, undo=True)
        assert undone.state == "undone", undone
        assert _unchanged(before, world.state(calls))
    return True, traffic.rights


def _unchanged(before: Mapping[str, Object], now: Mapping[str, Object]) -> bool:
    """Return whether undo restored the objects. An undo does not bring back a pod that is gone."""
    gone = {place for place in before.keys() - now.keys() if place.startswith("pods ")}
    return {place: item for place, item in before.items() if place not in gone} == now


def _expect(contract: Contract, scene: Scene, ends: str, **options: Any) -> None:
    """Make an attempt that must end in a state without a write."""
    traffic = Traffic()
    outcome = contract.attempt(Scene(scene.target, scene.event), traffic=traffic, **options)
    assert outcome.state == ends, outcome
    assert traffic.writes == 0


def _places_of(outcome: Outcome) -> list[tuple[Any, ...]]:
    """Return what the calls of an attempt are about."""
    return [(one.verb, one.resource, one.namespace, one.name) for one in outcome.calls]


def _playbook(case: Case, **changed: Any) -> Playbook:
    """Return the compiled playbook of a case. changed: parameters with other values."""
    document = case.document
    document["spec"]["actions"][0]["with"] |= changed
    return playbook_from_snapshot(msgspec.json.encode(document), load_actions())


def _templated(case: Case) -> Iterator[Playbook]:
    """Yield the playbook of a case with each text parameter replaced by a template of the event's text."""
    for name, parameter in case.registered.parameters.items():
        if isinstance(parameter.type, Text):
            with contextlib.suppress(PlaybookError):  # the parameter takes no template of this form
                yield _playbook(case, **{name: "%proc.cmdline"})


def _event(fields: Mapping[str, Any], hostname: str) -> Event:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    source = "k8s_audit" if any(name.startswith("ka.") for name in fields) else "syscall"
    body = {"rule": "Contract", "time": now, "hostname": hostname, "source": source}
    return parse_event({**body, "output_fields": {"proc.cmdline": "sh", **fields}})


def _with_fields(event: Event, fields: Mapping[str, Any]) -> Event:
    return msgspec.structs.replace(event, fields={**event.fields, **fields})


def _named(name: str) -> Object:
    return {"metadata": {"name": name}}


def _label(value: str | None) -> Object:
    return {"metadata": {"labels": {"tiercel.dev/protected": value}}}
