"""Coverage: which steps and conditions the cases of the PlaybookTests exercise.

A step is covered if a case plans it. A condition has two outcomes, like a branch: one case must make it true,
and one must make it false or unknown. This includes conditions in groups and in ``when``. A condition is
evaluated for the events that reach it: those that pass the playbook's ``match`` and, for a ``when``, those
that the playbook matches.
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
    """A step or condition that is not covered. what: a message, like ``never false: NAME: CONDITION``."""

    where: Location
    what: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """The number of all outcomes and of the covered ones. A step has one outcome, a condition has two."""

    all: int
    seen: int
    missed: tuple[CoverageGap, ...]

    @property
    def share(self) -> int:
        """Per cent, rounded down; 100 if there are no outcomes."""
        return 100 * self.seen // self.all if self.all else 100


@dataclass(frozen=True, slots=True)
class _Part:
    """A step or a condition of a playbook.

    path: in its document. outcomes: the possible ones. seen: the covered ones.
    """

    path: Path
    name: str
    outcomes: tuple[str, ...]
    condition: Condition | None = None
    seen: set[str] = field(default_factory=set)

    @property
    def gap(self) -> str | None:
        """A message about the outcomes that are not covered, or None."""
        never = [outcome for outcome in self.outcomes if outcome not in self.seen]
        return f"never {' or '.join(never)}: {self.name}" if never else None


def coverage(
    playbooks: Iterable[Playbook], verdicts: Sequence[CaseResult], files: Files
) -> Coverage:
    """Return the coverage of the playbooks that are not disabled. files: those of the playbooks."""
    index = SelectorIndex(playbook for playbook in playbooks if playbook.mode != "disabled")
    parts = {playbook.name: tuple(_parts(playbook)) for playbook in index.all}
    for verdict in verdicts:
        for name, step in verdict.planned:
            for part in parts.get(name, ()):
                if part.condition is None and part.name == f"{name}/{step}":
                    part.seen.add("planned")
        for event in verdict.case.events:
            for playbook in _reached(event, verdict.case, index):
                _evaluate(event, playbook, parts[playbook.name])
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
    """Yield the condition, or the conditions of its group."""
    if not condition.group:
        yield _Part(path, f"{of}: {condition.text}", _OF_CONDITION, condition)
    for n, part in enumerate(condition.parts):
        where = (*path, "not") if condition.group == "not" else (*path, condition.group, n)
        yield from _leaves(part, where, of)


def _reached(event: Event, case: Case, index: SelectorIndex[Playbook]) -> Iterator[Playbook]:
    """Yield the tested playbooks whose ``match`` is true for the event."""
    for playbook in index.for_rule(event.rule):
        tested = case.playbooks is None or playbook.name in case.playbooks
        if tested and all(test(event) for _, test in key_tests(playbook.match)):
            yield playbook


def _evaluate(event: Event, playbook: Playbook, parts: Iterable[_Part]) -> None:
    matches = all(condition.holds(event) is True for condition in playbook.conditions)
    for part in parts:
        if part.condition and (matches or part.path[1] == "conditions"):
            part.seen.add("true" if part.condition.holds(event) is True else "false")


def _missed(
    playbooks: Iterable[Playbook], parts: dict[str, tuple[_Part, ...]], files: Files
) -> Iterator[CoverageGap]:
    """Yield the gaps by playbook and location. A playbook without any coverage is one gap."""
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
        # the file may have changed since it was loaded
        found = [
            CoverageGap(mine[0].at(path) if mine else where, gap) for path, gap in gaps.items()
        ]
        yield from sorted(found, key=lambda missed: missed.where)
