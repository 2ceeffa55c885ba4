"""What may hurt although it is valid: warnings of ``check``; and errors that only a whole document shows."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.language.folder import VALUES
from engine.language.yaml_source import read
from engine.model.errors import Finding, Location

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from engine.language.findings import Findings
    from engine.language.folder import Files
    from engine.language.loader import PlaybookSet
    from engine.language.yaml_source import Document, Path
    from engine.model.playbook import Playbook, Silence

_TEMPLATE = re.compile(r"%(?:\{[^{}]*\}|[A-Za-z][A-Za-z0-9_.\[\]]*)")
_LETTER = re.compile(r"[A-Za-z0-9]")
_SCHEME = re.compile(r"(?i)^\s*(?:bearer|basic|token|digest|apikey)\b")
_SECRET_KEY = re.compile(
    r"(?i)(?:proxy-)?authorization|cookie|(?:.*[-_.])?(?:api[-_]?key|access[-_]?key|auth[-_]?token"
    r"|access[-_]?token|token|secret|client[-_]?secret|password|passwd|private[-_]?key"
    r"|(?:routing|integration|subscription)[-_]?key)"
)
"""Names of headers and of keys in a body whose value is a credential."""
_TOKEN = re.compile(
    r"://[^/?#\s:@]+:[^/?#\s@]+@"  # a password in a URL
    r"|(?i:[?&](?:access_token|token|api_?key|key|secret|sig|signature|password)=[^&#\s%]{4})"
    r"|://hooks\.slack\.com/(?:services|workflows|triggers)/\w"
    r"|://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\w"
    r"|\bxox[abeoprs]-\w|\bgh[opsur]_\w{20}|\bgithub_pat_\w{20}|\bglpat-[\w-]{16}|\bAKIA[A-Z0-9]{16}\b"
    r"|\beyJ[\w-]{8,999}\.eyJ[\w-]{8}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?i:\b(?:bearer|basic) [\w.+/=-]{12})"
)
"""Forms that only a credential has, wherever it stands."""
NAMESPACE_FIELDS = ("k8s.ns.name", "k8smeta.ns.name", "ka.target.namespace")


def lint_playbook(document: Document, playbook: Playbook | None, findings: Findings) -> None:
    """Warn of what the playbook risks."""
    spec = document.data.get("spec")
    if not isinstance(spec, dict) or playbook is None:
        return
    for path, step in _steps(spec):
        _credentials(step.get("with"), (*path, "with"), findings)
        if step["action"] == "http.request":
            _request(step.get("with") or {}, (*path, "with"), findings)
    if playbook.mode == "disabled":
        return
    effects = {step.effect for step in playbook.steps}
    if effects & {"disrupt", "notify"} and playbook.throttle is None:
        what = "it disrupts or notifies on every event, for it has no throttle"
        findings.add(("spec",), "no-throttle", what, "throttle: {once: 10m}", severity="warning")
    if "disrupt" in effects and not _asks_for_namespace(spec.get("conditions")):
        what = "it disrupts in every namespace, for no condition asks for one"
        hint = "- {field: k8s.ns.name, notIn: [kube-system]}"
        findings.add(("spec",), "no-namespace", what, hint, severity="warning")
    _daemon_sets(spec, findings)
    if "disrupt" in effects and "everything" in spec["match"] and not playbook.conditions:
        findings.add(
            ("spec", "match"), "matches-everything", "it disrupts on everything", severity="warning"
        )


def _daemon_sets(spec: dict[str, Any], findings: Findings) -> None:
    for path, step in _steps(spec):
        kinds = (step.get("with") or {}).get("skipKinds") or ()
        if step["action"] == "pod.delete" and "DaemonSet" not in kinds:
            what = "it deletes pods of DaemonSets too, which come back on the very same node"
            hint = "with: {skipKinds: [DaemonSet]}"
            findings.add((*path, "action"), "deletes-daemonset", what, hint, severity="warning")


def _steps(spec: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for phase in ("actions", "finally"):
        for n, step in enumerate(spec.get(phase) or ()):
            yield ("spec", phase, n), step


def _request(given: dict[str, Any], path: Path, findings: Findings) -> None:
    """Warn of text that only looks like JSON."""
    body = given.get("body")
    if isinstance(body, str) and _is_json_with_templates(body):
        what = "it looks like JSON, but is text: a quote in the event breaks it"
        findings.add((*path, "body"), "text-as-json", what, "write it as YAML", severity="warning")


def _is_json_with_templates(text: str) -> bool:
    text = text.strip()
    return text[:1] + text[-1:] in ("{}", "[]") and '"' in text and _has_template(text)


def _has_template(text: str) -> bool:
    return bool(_TEMPLATE.search(text.replace("%%", "")))


def _credentials(value: Any, path: Path, findings: Findings) -> None:
    """Warn of a credential that is written out. The finding does not repeat it."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and _is_credential(str(key), item):
                what = (
                    f"`{str(key)[:80]}` is a credential that is written out; it belongs in a secret"
                )
                hint = "{fromSecret: NAME}"
                findings.add((*path, key), "literal-credential", what, hint, severity="warning")
            else:
                _credentials(item, (*path, key), findings)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            _credentials({n: item}, path, findings)


def _is_credential(key: str, text: str) -> bool:
    if _TOKEN.search(text):
        return True
    plain = _TEMPLATE.sub("", text.replace("%%", ""))
    return bool(_SECRET_KEY.fullmatch(key)) and bool(_LETTER.search(_SCHEME.sub("", plain)))


def nothing_found(found: PlaybookSet, files: Files) -> Iterator[Finding]:
    """An error where no file has a document."""
    if not found.documents and not found.findings:
        file = files.root or files.shown(next(iter(files.files), "."))
        what = "there is no document here, and so no playbook"
        yield Finding(Location(file, 1, 1), "nothing-found", what, "write one, or name its folder")


def run_out(silences: Iterable[Silence], now: float) -> Iterator[Finding]:
    """Silences that hold no more at that time (epoch seconds)."""
    for silence in silences:
        if silence.until_ns <= now * 1e9 and silence.where:
            what = f"the silence `{silence.name}` has run out; it silences recorded events only"
            hint = f"ask {silence.owner[:80]}, or remove it"
            yield Finding(silence.where, "silence-expired", what, hint, "warning")


def _asks_for_namespace(conditions: Any) -> bool:
    if isinstance(conditions, dict):
        field, path = conditions.get("field"), conditions.get("jsonPath")
        named = field in NAMESPACE_FIELDS or any(f in str(path or "") for f in NAMESPACE_FIELDS)
        return named or any(_asks_for_namespace(item) for item in conditions.values())
    return isinstance(conditions, list) and any(map(_asks_for_namespace, conditions))


def not_deployed(files: Files, deployable: Collection[str]) -> Iterator[Finding]:
    """Files that the ``configMapGenerator`` of the folder's kustomization forgets.

    deployable: the files with a document that the engine loads. Tests are not deployed.
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
        for entry in generator.get("files") or []
    }
    for path in sorted(files.files):
        if path not in listed and (path == VALUES or path in deployable):
            what = f"{name} does not list it, so no cluster gets it"
            yield Finding(
                Location(files.shown(path), 1, 1), "not-deployed", what, f"- {path}", "warning"
            )
