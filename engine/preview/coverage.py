"""Which steps and conditions of a set the cases of its PlaybookTests exercise, and which never.

A step is exercised where some case plans it. A condition, also one within a group or a ``when``, has two
outcomes, as a branch has: some case must make it true, and some must make it false or unknown. It is asked
of the events that get as far as to it: those that the playbook's ``match`` takes and, by a ``when``, those
that the playbook wants.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.language.yaml_source import read
from engine.model.playbook import Condition
from engine.planning.matcher import SelectorIndex, key_tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.language.folder import Files
    from engine.language.yaml_source import Path
    from engine.model.errors import Location
    from engine.model.event import Event
    from engine.model.playbook import Playbook
    from engine.preview.test_cases import Case, CaseResult

_OF_STEP = ("planned",)
_OF_CONDITION = ("true", "false")


@dataclass(frozen=True, slots=True)
class CoverageGap:
    """What no case exercises, at its place. what: a sentence, like ``never false: NAME: CONDITION``."""

    where: Location
    what: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many outcomes (one a step, two a condition) there are, how many some case brings about."""

    all: int
    seen: int
    missed: tuple[CoverageGap, ...]

    @property
    def share(self) -> int:
        """Per cent, rounded down; 100 where there is nothing to exercise."""
        return 100 * self.seen // self.all if self.all else 100


@dataclass(frozen=True, slots=True)
class _Part:
    """A step, or a condition, of a playbook. path: in its document. outcomes: that it can have."""

    path: Path
    name: str
    outcomes: tuple[str, ...]
    condition: Condition | None = None
    seen: set[str] = field(default_factory=set)

    @property
    def gap(self) -> str | None:
        """What was never seen of it, or None."""
        never = [outcome for outcome in self.outcomes if outcome not in self.seen]
        return f"never {' or '.join(never)}: {self.name}" if never else None


def coverage(
    playbooks: Iterable[Playbook], verdicts: Sequence[CaseResult], files: Files
) -> Coverage:
    """What the cases exercise of the playbooks that are not disabled. files: what they were loaded from."""
    index = SelectorIndex(playbook for playbook in playbooks if playbook.mode != "disabled")
    parts = {playbook.name: tuple(_parts(playbook)) for playbook in index.all}
    for verdict in verdicts:
        for name, step in verdict.planned:
            for part in parts.get(name, ()):
                if part.condition is None and part.name == f"{name}/{step}":
                    part.seen.add("planned")
        for event in verdict.case.events:
            for playbook in _asked(event, verdict.case, index):
                _ask(event, playbook, parts[playbook.name])
    every = [part for of_one in parts.values() for part in of_one]
    return Coverage(
        sum(len(part.outcomes) for part in every),
        sum(len(part.seen) for part in every),
        tuple(_missed(index.all, parts, files)),
    )


def _parts(playbook: Playbook) -> Iterator[_Part]:
    for n, condition in enumerate(playbook.conditions):
        yield from _leaves(condition, ("spec", "conditions", n), playbook.name)
    numbers = {"actions": 0, "finally": 0}
    for step in playbook.steps:
        path: Path = ("spec", step.phase, numbers[step.phase])
        numbers[step.phase] += 1
        name = f"{playbook.name}/{step.name}"
        yield _Part(path, name, _OF_STEP)
        for n, when in enumerate(step.when):
            if isinstance(when, Condition):
                yield from _leaves(when, (*path, "when", n), name)


def _leaves(condition: Condition, path: Path, of: str) -> Iterator[_Part]:
    """The condition, or those of the group that it is."""
    if not condition.group:
        yield _Part(path, f"{of}: {condition.text}", _OF_CONDITION, condition)
    for n, part in enumerate(condition.parts):
        where = (*path, "not") if condition.group == "not" else (*path, condition.group, n)
        yield from _leaves(part, where, of)


def _asked(event: Event, case: Case, index: SelectorIndex[Playbook]) -> Iterator[Playbook]:
    """The playbooks of the case whose ``match`` takes the event."""
    for playbook in index.for_rule(event.rule):
        tested = case.playbooks is None or playbook.name in case.playbooks
        if tested and all(test(event) for _, test in key_tests(playbook.match)):
            yield playbook


def _ask(event: Event, playbook: Playbook, parts: Iterable[_Part]) -> None:
    wanted = all(condition.holds(event) is True for condition in playbook.conditions)
    for part in parts:
        if part.condition and (wanted or part.path[1] == "conditions"):
            part.seen.add("true" if part.condition.holds(event) is True else "false")


def _missed(
    playbooks: Iterable[Playbook], parts: dict[str, tuple[_Part, ...]], files: Files
) -> Iterator[CoverageGap]:
    """In order of playbook and place; of a playbook that nothing exercises a single one."""
    contents = {files.shown(path): content for path, content in files.files.items()}
    for playbook in playbooks:
        where, gaps = playbook.where, {p.path: p.gap for p in parts[playbook.name] if p.gap}
        if where is None or not gaps:
            continue
        if not any(part.seen for part in parts[playbook.name]):
            yield CoverageGap(where, f"never run: {playbook.name}")
            continue
        documents, _ = read(contents.get(where.file, b""), where.file)
        mine = [one for one in documents if one.at(("metadata", "name")) == where]
        # a file that was edited meanwhile may not have it any more
        found = [
            CoverageGap(mine[0].at(path) if mine else where, gap) for path, gap in gaps.items()
        ]
        yield from sorted(found, key=lambda missed: missed.where)
