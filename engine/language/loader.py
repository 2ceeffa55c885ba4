"""Loads a playbook folder: compiles each file, and reports all mistakes of all files at once."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from engine.language.compile import (
    check_document,
    compile_playbook,
    compile_silence,
    kind_of,
)
from engine.language.findings import TooManyFindingsError
from engine.language.folder import VALUES, Files, blob_id
from engine.language.guardrails import compile_guardrails
from engine.language.lint import lint_playbook, not_deployed
from engine.language.substitution import read_values
from engine.language.yaml_source import read
from engine.model.errors import Finding, Location, PlaybookError
from engine.model.playbook import Guardrails, Playbook, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.language.compile import Action
    from engine.language.findings import Findings
    from engine.language.yaml_source import Document

    Inspect = Callable[[Document, Findings], None]
    ParsedFile = tuple[list[Document], list[Finding]]

MAX_EXPRESSIONS = 20_000
"""Regular expressions, globs and JSONPaths of all documents of a folder. They compile within 6 s."""
MAX_INSTRUCTIONS = 4_000_000
"""Total RE2 instructions of all documents of a folder. They compile within 4 s."""


class PlaybookSet(msgspec.Struct, frozen=True):
    """The compiled documents of a folder.

    findings: errors and warnings, sorted by place. Findings in PlaybookTests are separate (see
    engine.preview.test_cases), because a broken test does not make a set unusable.
    digest: SHA-256 of the files, hex. sources: path -> (Git blob id, names of its playbooks). revision: of the
    files, "" if unknown.
    guardrails: of the Guardrails document, or the default. documents: number of documents of every kind,
    including those with errors. tests: path -> documents and YAML findings of a file with a PlaybookTest.
    """

    playbooks: tuple[Playbook, ...]
    findings: tuple[Finding, ...]
    digest: str
    sources: Mapping[str, tuple[str, tuple[str, ...]]]
    silences: tuple[Silence, ...] = ()
    guardrails: Guardrails = msgspec.field(default_factory=Guardrails)
    documents: int = 0
    tests: Mapping[str, ParsedFile] = msgspec.field(default_factory=dict)
    revision: str = ""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the set unusable."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def usable(self) -> PlaybookSet:
        """Return the set itself. Raises PlaybookError if it has an error."""
        if self.errors:
            raise PlaybookError(self.errors)
        return self


class _CompiledFile(msgspec.Struct):
    """The compiled documents of one file.

    names: (kind, name, place) of each document. tests: see PlaybookSet. deployable: whether the engine loads
    a document of the file. expressions, instructions: as in Findings, for the whole file.
    """

    findings: list[Finding] = msgspec.field(default_factory=list)
    playbooks: list[Playbook] = msgspec.field(default_factory=list)
    names: list[tuple[str, str, Location]] = msgspec.field(default_factory=list)
    silences: list[Silence] = msgspec.field(default_factory=list)
    guardrails: list[Guardrails] = msgspec.field(default_factory=list)
    documents: int = 0
    tests: ParsedFile | None = None
    deployable: bool = False
    expressions: int = 0
    instructions: int = 0


class Loader:
    """Loads playbook sets and caches compiled files, so that a reload compiles only the changed files.

    actions: by name. inspect: called with each Playbook and Silence without errors; it can add warnings.
    """

    def __init__(self, actions: Mapping[str, Action], inspect: Inspect | None = None) -> None:
        self._actions = actions
        self._inspect = inspect
        self._cache: dict[tuple[str, str, str], _CompiledFile] = {}

    def load(
        self,
        files: Files,
        values: tuple[str, bytes] | None = None,
        overlay: Mapping[str, Any] | None = None,
    ) -> PlaybookSet:
        """Compile the files.

        values: path and content of a file that replaces the folder's values.yaml. overlay: merged over the
        values.
        """
        shown, content = values or (files.shown(VALUES), files.files.get(VALUES, b""))
        findings, merged = _read_values(content, shown)
        merged = _merge(merged, overlay or {})
        values_id = blob_id(content + repr(overlay).encode("utf-8", "replace"))
        compiled = self._compile_files(files, merged, values_id, findings)
        loaded = compiled.values()
        findings += [finding for one in loaded for finding in one.findings]
        findings += files.findings
        findings += _duplicates(loaded)
        findings += not_deployed(files, {path for path, one in compiled.items() if one.deployable})
        return PlaybookSet(
            playbooks=tuple(playbook for one in loaded for playbook in one.playbooks),
            # a mistake behind an alias is found at each use of the alias, at the same place
            findings=tuple(sorted(dict.fromkeys(findings), key=lambda f: (f.where, f.code))),
            digest=files.digest,
            sources={
                path: (blob_id(files.files[path]), tuple(p.name for p in one.playbooks))
                for path, one in compiled.items()
            },
            silences=tuple(silence for one in loaded for silence in one.silences),
            guardrails=next((g for one in loaded for g in one.guardrails), Guardrails()),
            documents=sum(one.documents for one in loaded),
            tests={path: one.tests for path, one in compiled.items() if one.tests},
            revision=files.revision,
        )

    def _compile_files(
        self, files: Files, values: Mapping[str, Any], values_id: str, findings: list[Finding]
    ) -> dict[str, _CompiledFile]:
        """Compile the files by path, up to the limits of a folder; add a finding if a limit is exceeded."""
        cache: dict[tuple[str, str, str], _CompiledFile] = {}
        compiled: dict[str, _CompiledFile] = {}
        expressions = instructions = 0
        for path in sorted(files.files.keys() - {VALUES}):
            content, shown = files.files[path], files.shown(path)
            key = (shown, blob_id(content), values_id)
            one = self._cache.get(key) or self._compile_file(content, shown, values)
            compiled[path] = cache[key] = one
            expressions += one.expressions
            instructions += one.instructions
            if expressions > MAX_EXPRESSIONS or instructions > MAX_INSTRUCTIONS:
                fault = (
                    f"has more than {MAX_EXPRESSIONS:,} expressions"
                    if expressions > MAX_EXPRESSIONS
                    else "has expressions that are too large in total"
                )
                what = f"the folder {fault}; the files after this one are not checked"
                findings.append(Finding(Location(shown, 1, 1), "folder-limit", what))
                break
        self._cache = cache
        return compiled

    def _compile_file(self, content: bytes, file: str, values: Mapping[str, Any]) -> _CompiledFile:
        result = _CompiledFile()
        documents, yaml_findings = read(content, file)
        if _are_values(documents, file):
            return result
        result.documents = len(documents)
        tests = [kind_of(document) == "PlaybookTest" for document in documents]
        if any(tests):
            result.tests = documents, yaml_findings
        if documents and all(tests):
            return result  # engine.preview.test_cases reports its mistakes
        result.findings += yaml_findings
        for document in documents:
            kind = kind_of(document)
            if kind == "PlaybookTest":
                continue
            result.deployable = result.deployable or kind is not None
            try:
                checked, findings = check_document(document, values, yaml_findings)
                try:
                    self._compile_document(checked, findings, blob_id(content), result)
                finally:
                    result.expressions += findings.expressions
                    result.instructions += findings.instructions
            except TooManyFindingsError as error:
                result.findings += error.entries
            else:
                result.findings += findings.entries
        return result

    def _compile_document(
        self, document: Document, findings: Findings, blob: str, result: _CompiledFile
    ) -> None:
        """Compile a document that ``check_document`` has checked, and add it to the result."""
        kind = kind_of(document)
        if kind:
            _add_name(kind, document, result)
        if kind == "Playbook":
            playbook = compile_playbook(document, findings, self._actions, blob)
            lint_playbook(document, playbook, findings)
            result.playbooks += [playbook] if playbook else []
        elif kind == "Silence":
            silence = compile_silence(document, findings)
            result.silences += [silence] if silence else []
        elif kind == "Guardrails":
            guardrails = compile_guardrails(document, findings, self._actions)
            result.guardrails += [guardrails] if guardrails else []
        if self._inspect and kind in ("Playbook", "Silence") and not findings.has_errors:
            self._inspect(document, findings)


def _merge(values: Any, overlay: Any) -> Any:
    """Return the values with those of the overlay in their place; mappings are merged."""
    if not isinstance(values, dict) or not isinstance(overlay, dict):
        return overlay
    return {**values, **{key: _merge(values.get(key), value) for key, value in overlay.items()}}


def _read_values(content: bytes, file: str) -> tuple[list[Finding], dict[str, Any]]:
    documents, findings = read(content, file)
    if not documents:
        return findings, {}
    if len(documents) > 1:
        what = "a file of values has one document"
        return [*findings, Finding(documents[1].at(()), "wrong-type", what)], {}
    values, of_values = read_values(documents[0])
    return findings + of_values, values


def _are_values(documents: list[Document], file: str) -> bool:
    """Whether a file below the root is the values.yaml of a subfolder, for a command that reads only that.

    A subfolder can then be used alone. A values.yaml with documents of the language is a file like any other.
    """
    data = documents[0].data if len(documents) == 1 else None
    named = PurePosixPath(file).name == VALUES
    return named and isinstance(data, dict) and data.keys().isdisjoint(("apiVersion", "kind"))


def _add_name(kind: str, document: Document, result: _CompiledFile) -> None:
    metadata = document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(name, str):
        result.names.append((kind, name, document.at(("metadata", "name"))))


def _duplicates(compiled: Iterable[_CompiledFile]) -> list[Finding]:
    """Report names that are used twice, at the later place, and a second Guardrails document."""
    findings: list[Finding] = []
    first: dict[tuple[str, str], Location] = {}
    guardrails: Location | None = None
    names = sorted((name for one in compiled for name in one.names), key=lambda name: name[2])
    for kind, name, where in names:
        before = first.setdefault((kind, name), where)
        if before is not where:
            what = f"another {kind} has the name `{name}`"
            findings.append(Finding(where, "duplicate-name", what, f"see {before}"))
        if kind == "Guardrails" and guardrails and before is where:
            what = "there is at most one Guardrails document"
            findings.append(Finding(where, "bad-value", what, f"see {guardrails}"))
        if kind == "Guardrails":
            guardrails = guardrails or where
    return findings
