"""Warnings about valid documents with a probable mistake, and findings about a whole folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest
from engine.language.folder import VALUES
from engine.language.yaml_source import read
from engine.model.errors import Finding, Location
from engine.model.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from engine.language.findings import Findings
    from engine.language.folder import Files
    from engine.language.loader import PlaybookSet
    from engine.language.yaml_source import Document, Path
    from engine.model.playbook import Playbook, Silence

_TEMPLATE = re.compile(r"%(?:\{[^{}]*\}|[A-Za-z][A-Za-z0-9_.\[\]]*)")
_ANSWER = re.compile(r"%\{?steps\.([A-Za-z0-9._-]{1,63}?)\.answer[.\[]")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]")
_SCHEME = re.compile(r"(?i)^\s*(?:bearer|basic|token|digest|apikey)\b")
_SECRET_KEY = re.compile(
    r"(?i)(?:proxy-)?authorization|cookie|(?:.*[-_.])?(?:api[-_]?key|access[-_]?key|auth[-_]?token"
    r"|access[-_]?token|token|secret|client[-_]?secret|password|passwd|private[-_]?key"
    r"|(?:routing|integration|subscription)[-_]?key)"
)
"""Names of headers and of keys of a body whose value is a credential."""
_TOKEN = re.compile(
    r"://[^/?#\s:@]+:[^/?#\s@]+@"  # a password in a URL
    r"|(?i:[?&](?:access_token|token|api_?key|key|secret|sig|signature|password)=[^&#\s%]{4})"
    r"|://hooks\.slack\.com/(?:services|workflows|triggers)/\w"
    r"|://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\w"
    r"|\bxox[abeoprs]-\w|\bgh[opsur]_\w{20}|\bgithub_pat_\w{20}|\bglpat-[\w-]{16}|\bAKIA[A-Z0-9]{16}\b"
    r"|\beyJ[\w-]{8,999}\.eyJ[\w-]{8}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?i:\b(?:bearer|basic) [\w.+/=-]{12})"
)
"""Text that only credentials contain, whatever the key."""
NAMESPACE_FIELDS = ("k8s.ns.name", "k8smeta.ns.name", "ka.target.namespace")
_TEXT_KEYS = ("rule", "priority", "time", "source", "hostname", "output")
_ALERT_KEYS = (*_TEXT_KEYS, "tags", "output_fields")
_REQUIRED_KEYS = ("rule", "time", "source", "output_fields")
"""Keys that every alert has after normalization."""


def lint_playbook(document: Document, playbook: Playbook | None, findings: Findings) -> None:
    """Add warnings about a playbook. None: it has an error, so there is nothing to warn about."""
    spec = document.data.get("spec")
    if not isinstance(spec, dict) or playbook is None:
        return
    for path, step in _steps(spec):
        _check_credentials(step.get("with"), (*path, "with"), findings)
        if step["action"] == "http.request":
            _check_request(step.get("with") or {}, (*path, "with"), findings)
    if playbook.mode == "disabled":
        return
    effects = {step.effect for step in playbook.steps}
    if effects & {"disrupt", "notify"} and playbook.throttle is None:
        what = "without a throttle, the playbook disrupts or notifies on every matching event"
        findings.add(("spec",), "no-throttle", what, "throttle: {once: 10m}", severity="warning")
    if "disrupt" in effects and not _compares_namespace(spec.get("conditions")):
        what = "without a condition on the namespace, the playbook disrupts in every namespace"
        hint = "- {field: k8s.ns.name, notIn: [kube-system]}"
        findings.add(("spec",), "no-namespace", what, hint, severity="warning")
    _check_daemon_sets(spec, findings)
    if "disrupt" in effects and "everything" in spec["match"] and not playbook.conditions:
        what = "the playbook disrupts on every event"
        findings.add(("spec", "match"), "matches-everything", what, severity="warning")


def _check_daemon_sets(spec: dict[str, Any], findings: Findings) -> None:
    for path, step in _steps(spec):
        kinds = (step.get("with") or {}).get("skipKinds") or ()
        if step["action"] == "pod.delete" and "DaemonSet" not in kinds:
            what = "the step also deletes pods of DaemonSets, which start again on the same node"
            hint = "with: {skipKinds: [DaemonSet]}"
            findings.add((*path, "action"), "deletes-daemonset", what, hint, severity="warning")


def _steps(spec: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for phase in ("actions", "finally"):
        for n, step in enumerate(spec.get(phase) or ()):
            yield ("spec", phase, n), step


def _check_request(parameters: dict[str, Any], path: Path, findings: Findings) -> None:
    """Warn about a body that is JSON with templates, written as text."""
    body = parameters.get("body")
    if isinstance(body, str) and _is_json_with_templates(body):
        what = "the body is JSON written as text, so a quote in a value of the event breaks it"
        findings.add((*path, "body"), "text-as-json", what, "write it as YAML", severity="warning")


def _is_json_with_templates(text: str) -> bool:
    text = text.strip()
    is_json = text[:1] + text[-1:] in ("{}", "[]") and '"' in text
    return is_json and bool(_TEMPLATE.search(text.replace("%%", "")))


def _check_credentials(value: Any, path: Path, findings: Findings) -> None:
    """Warn about credentials in plain text. The finding does not repeat the credential."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and _is_credential(str(key), item):
                what = f"`{str(key)[:80]}` contains a credential in plain text; use a secret"
                hint = "{fromSecret: NAME}"
                findings.add((*path, key), "literal-credential", what, hint, severity="warning")
            else:
                _check_credentials(item, (*path, key), findings)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            _check_credentials({n: item}, path, findings)


def _is_credential(key: str, text: str) -> bool:
    if _TOKEN.search(text):
        return True
    literal = _TEMPLATE.sub("", text.replace("%%", ""))
    return bool(_SECRET_KEY.fullmatch(key)) and bool(_ALPHANUMERIC.search(_SCHEME.sub("", literal)))


def _compares_namespace(conditions: Any) -> bool:
    if isinstance(conditions, dict):
        field, path = conditions.get("field"), str(conditions.get("jsonPath") or "")
        if field in NAMESPACE_FIELDS or any(name in path for name in NAMESPACE_FIELDS):
            return True
        return any(_compares_namespace(item) for item in conditions.values())
    return isinstance(conditions, list) and any(map(_compares_namespace, conditions))


def lint_path(
    keys: Sequence[str | int], condition: Mapping[str, Any]
) -> tuple[str, str | None] | None:
    """Return a warning and a hint if a condition on a JSONPath is always true or never true, else None.

    keys: the names and indices of a singular path in an alert.
    """
    top, *rest = keys or [""]
    if top not in _ALERT_KEYS:
        near = nearest(str(top), _ALERT_KEYS)
        return (f"an alert has no key `{top}`", near) if near else None
    if rest and (top in _TEXT_KEYS or (top == "tags" and isinstance(rest[0], str))):
        type_name = "a list" if top == "tags" else "text"
        holds = "always" if condition.get("exists") is False else "never"
        what = f"`{top}` is {type_name} and has no `{rest[0]}`, so the condition {holds} holds"
        return what, None
    if not rest and top in _REQUIRED_KEYS and "exists" in condition:
        holds = "always" if condition["exists"] else "never"
        return f"every alert has `{top}`, so the condition {holds} holds", None
    return _lint_priority(condition) if keys == ("priority",) else None


def _lint_priority(condition: Mapping[str, Any]) -> tuple[str, str | None] | None:
    operand = condition.get("equals", condition.get("in", ()))
    words = [operand] if isinstance(operand, str) else operand if isinstance(operand, list) else []
    if not words or any(word in PRIORITIES for word in words):
        return None
    what = f"`priority` is never `{str(words[0])[:80]}`, so the condition never holds"
    return what, nearest(str(words[0]), PRIORITIES) or ", ".join(PRIORITIES)


def lint_answers(
    step: Mapping[str, Any], path: Path, silent: Mapping[str, str], findings: Findings
) -> None:
    """Warn if a step uses the answer of an earlier step that never has one.

    silent: the names of these earlier steps, with their actions.
    """
    used: list[tuple[Path, str]] = list(_answers_in(step.get("with"), (*path, "with")))
    for n, condition in enumerate(_list(step.get("when"))):
        if isinstance(condition, dict) and "jsonPath" in condition and "step" in condition:
            used.append(((*path, "when", n, "step"), str(condition["step"])))
    for where, name in used:
        if name in silent:
            what = f"the step `{name}` never has an answer, because {silent[name]} has none"
            hint = "its result is in .state and .message"
            findings.add(where, "no-answer", what, hint, severity="warning")


def _answers_in(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the names of the steps whose answer a template in a value uses."""
    if isinstance(value, str):
        for found in _ANSWER.finditer(value.replace("%%", "")):
            yield path, found[1]
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _answers_in(item, (*path, key))
    else:
        for n, item in enumerate(_list(value)):
            yield from _answers_in(item, (*path, n))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def no_documents(found: PlaybookSet, files: Files) -> Iterator[Finding]:
    """Yield an error if no file contains a document."""
    if not found.documents and not found.findings:
        file = files.root or files.shown(next(iter(files.files), "."))
        what = "there are no documents here, so there are no playbooks"
        hint = "write a playbook, or name the folder of your playbooks"
        yield Finding(Location(file, 1, 1), "nothing-found", what, hint)


def expired_silences(silences: Iterable[Silence], now: float) -> Iterator[Finding]:
    """Yield a warning for each silence that has expired. now: epoch seconds."""
    for silence in silences:
        if silence.until_ns <= now * 1e9 and silence.where:
            what = f"the silence `{silence.name}` has expired; it applies to recorded events only"
            hint = f"ask {silence.owner[:80]}, or remove it"
            yield Finding(silence.where, "silence-expired", what, hint, "warning")


def not_deployed(files: Files, deployable: Collection[str]) -> Iterator[Finding]:
    """Yield a warning for each file that the ``configMapGenerator`` of the folder does not list.

    deployable: paths of the files that the engine loads. Tests are not deployed.
    """
    if files.kustomization is None:
        return
    name, content = files.kustomization
    documents, _ = read(content, name)
    data = documents[0].data if documents else None
    generators = data.get("configMapGenerator") if isinstance(data, dict) else None
    if not isinstance(generators, list):
        return
    listed = {
        str(PurePosixPath(str(entry).rpartition("=")[2]))
        for generator in generators
        if isinstance(generator, dict)
        for entry in _list(generator.get("files"))
    }
    for path in sorted(files.files):
        if path not in listed and (path == VALUES or path in deployable):
            what = f"{name} does not list this file, so it is not deployed"
            where = Location(files.shown(path), 1, 1)
            yield Finding(where, "not-deployed", what, f"- {path}", "warning")
