"""Files -> a set of playbooks, with all that is wrong in all of them told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.language.compile import (
    check_document,
    compile_playbook,
    compile_silence,
    kind_of,
)
from engine.language.findings import TooManyMistakesError
from engine.language.folder import VALUES, Files, blob_id
from engine.language.guardrails import compile_guardrails
from engine.language.lint import not_deployed, risks
from engine.language.substitution import read_values
from engine.language.yaml_source import read
from engine.model.errors import Finding, Location, PlaybookError
from engine.model.playbook import Guardrails, Playbook, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.language.findings import Report
    from engine.language.yaml_source import Document

    Inspect = Callable[[Document, Report], None]


@dataclass(frozen=True, slots=True)
class PlaybookSet:
    """What a folder says.

    findings: errors and warnings, sorted by place. Findings in PlaybookTests are separate (see
    engine.preview.test_cases), because a broken test does not make a set unusable. sources: path -> (blob id,
    names of playbooks).
    guardrails: the document's, else the floor. documents: of every kind, broken ones too.
    """

    playbooks: tuple[Playbook, ...]
    findings: tuple[Finding, ...]
    digest: str
    sources: Mapping[str, tuple[str, tuple[str, ...]]]
    silences: tuple[Silence, ...] = ()
    guardrails: Guardrails = field(default_factory=Guardrails)
    documents: int = 0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes the set unusable."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def usable(self) -> PlaybookSet:
        """The set itself. Raises PlaybookError where it has an error."""
        if self.errors:
            raise PlaybookError(self.errors)
        return self


@dataclass(slots=True)
class _Loaded:
    """What one file came to; kept between loads while neither it nor the values change."""

    findings: list[Finding] = field(default_factory=list)
    playbooks: list[Playbook] = field(default_factory=list)
    named: list[tuple[str, str, Location]] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    guardrails: list[Guardrails] = field(default_factory=list)
    documents: int = 0
    deployable: bool = False
    """Whether the file has a document that the engine loads."""


class Loader:
    """Loads sets; remembers what each file came to, so that a reload compiles only what changed.

    inspect: looks at each Playbook and Silence that has no error, and may warn.
    """

    def __init__(self, inspect: Inspect | None = None) -> None:
        self._inspect = inspect
        self._cache: dict[tuple[str, str, str], _Loaded] = {}

    def load(
        self,
        files: Files,
        values: tuple[str, bytes] | None = None,
        overlay: Mapping[str, Any] | None = None,
    ) -> PlaybookSet:
        """The set.

        values: path and content of a file that replaces the root's values.yaml. overlay: laid over the values.
        """
        shown, content = values or (files.shown(VALUES), files.files.get(VALUES, b""))
        findings, put = _read_values(content, shown)
        put = _overlaid(put, overlay or {})
        state = blob_id(content + repr(overlay).encode("utf-8", "replace"))
        cache, loaded = {}, {}
        for path in sorted(files.files.keys() - {VALUES}):
            key = (files.shown(path), blob_id(files.files[path]), state)
            loaded[path] = cache[key] = self._cache.get(key) or _load_file(
                files.files[path], key[0], put, self._inspect
            )
        self._cache = cache
        findings += [finding for one in loaded.values() for finding in one.findings]
        findings += files.findings
        findings += _clashes(loaded.values())
        findings += not_deployed(files, {path for path, one in loaded.items() if one.deployable})
        return PlaybookSet(
            playbooks=tuple(playbook for one in loaded.values() for playbook in one.playbooks),
            # what stands behind an alias is seen at each of its uses, but it is one mistake
            findings=tuple(sorted(dict.fromkeys(findings), key=lambda f: (f.where, f.code))),
            digest=files.digest,
            sources={
                path: (blob_id(files.files[path]), tuple(p.name for p in one.playbooks))
                for path, one in loaded.items()
            },
            silences=tuple(silence for one in loaded.values() for silence in one.silences),
            guardrails=next((g for one in loaded.values() for g in one.guardrails), Guardrails()),
            documents=sum(one.documents for one in loaded.values()),
        )


def _overlaid(values: Any, overlay: Any) -> Any:
    """The values with those of the overlay in their place; mappings are merged."""
    if not isinstance(values, dict) or not isinstance(overlay, dict):
        return overlay
    merged = {key: _overlaid(values.get(key), value) for key, value in overlay.items()}
    return {**values, **merged}


def _read_values(content: bytes, file: str) -> tuple[list[Finding], dict[str, Any]]:
    documents, findings = read(content, file)
    if not documents:
        return findings, {}
    if len(documents) > 1:
        what = "values are one document"
        return [*findings, Finding(documents[1].at(()), "wrong-type", what)], {}
    values, wrong = read_values(documents[0])
    return findings + wrong, values


def _load_file(
    content: bytes, file: str, values: Mapping[str, Any], inspect: Inspect | None
) -> _Loaded:
    loaded = _Loaded()
    documents, told = read(content, file)
    loaded.documents = len(documents)
    if documents and all(kind_of(document) == "PlaybookTest" for document in documents):
        return loaded  # a broken test must not keep a set out of force; engine.preview.test_cases tells of it
    loaded.findings += told
    for document in documents:
        if kind_of(document) == "PlaybookTest":
            continue
        try:
            loaded.findings += _load_document(
                document, (values, told), blob_id(content), loaded, inspect
            )
        except TooManyMistakesError as error:
            loaded.findings += error.found
    return loaded


def _load_document(
    document: Document,
    given: tuple[Mapping[str, Any], list[Finding]],
    blob: str,
    loaded: _Loaded,
    inspect: Inspect | None,
) -> list[Finding]:
    """Add what a document says; its findings. given: values, and what is wrong with the file as YAML."""
    kind = kind_of(document)
    loaded.deployable = loaded.deployable or kind is not None
    checked, report = check_document(document, *given)
    if kind:
        _note(kind, checked, loaded)
    if kind == "Playbook":
        playbook = compile_playbook(checked, report, blob)
        risks(checked, playbook, report)
        loaded.playbooks += [playbook] if playbook else []
    elif kind == "Silence":
        silence = compile_silence(checked, report)
        loaded.silences += [silence] if silence else []
    elif kind == "Guardrails":
        guardrails = compile_guardrails(checked, report)
        loaded.guardrails += [guardrails] if guardrails else []
    if inspect and kind in ("Playbook", "Silence") and not report.failed:
        inspect(checked, report)
    return report.found


def _note(kind: str, document: Document, loaded: _Loaded) -> None:
    metadata = document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(name, str):
        loaded.named.append((kind, name, document.at(("metadata", "name"))))


def _clashes(loaded: Iterable[_Loaded]) -> list[Finding]:
    """Names given twice, each told at the later place; and a second Guardrails."""
    found: list[Finding] = []
    first: dict[tuple[str, str], Location] = {}
    guardrails: Location | None = None
    everything = sorted((n for one in loaded for n in one.named), key=lambda named: named[2])
    for kind, name, where in everything:
        before = first.setdefault((kind, name), where)
        if before is not where:
            what = f"another {kind} is called `{name}`"
            found.append(Finding(where, "duplicate-name", what, f"see {before}"))
        if kind == "Guardrails" and guardrails and before is where:
            what = "there is at most one Guardrails document"
            found.append(Finding(where, "bad-value", what, f"see {guardrails}"))
        if kind == "Guardrails":
            guardrails = guardrails or where
    return found
