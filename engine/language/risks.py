"""What is no mistake but may hurt: warnings of ``check``."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.errors import Finding, Location
from engine.language.folder import VALUES
from engine.language.source import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.language.folder import Files
    from engine.language.report import Report
    from engine.language.source import Document
    from engine.playbook import Playbook, Silence

NAMESPACE_FIELDS = ("k8s.ns.name", "k8smeta.ns.name", "ka.target.namespace")


def risks(document: Document, playbook: Playbook | None, report: Report) -> None:
    """Warn of what the playbook risks."""
    spec = document.data.get("spec")
    if not isinstance(spec, dict) or playbook is None or playbook.mode == "disabled":
        return
    effects = {step.effect for step in playbook.steps}
    if effects & {"disrupt", "notify"} and playbook.throttle is None:
        what = "it disrupts or notifies on every event, for it has no throttle"
        report(("spec",), "no-throttle", what, "throttle: {once: 10m}", severity="warning")
    if "disrupt" in effects and not _asks_for_namespace(spec.get("conditions")):
        what = "it disrupts in every namespace, for no condition asks for one"
        hint = "- {field: k8s.ns.name, notIn: [kube-system]}"
        report(("spec",), "no-namespace", what, hint, severity="warning")
    _daemon_sets(spec, report)
    if "disrupt" in effects and "everything" in spec["match"] and not playbook.conditions:
        report(
            ("spec", "match"), "matches-everything", "it disrupts on everything", severity="warning"
        )


def _daemon_sets(spec: dict[str, Any], report: Report) -> None:
    for phase in ("actions", "finally"):
        for n, step in enumerate(spec.get(phase) or ()):
            kinds = (step.get("with") or {}).get("skipKinds") or ()
            if step["action"] == "pod.delete" and "DaemonSet" not in kinds:
                what = "it deletes pods of DaemonSets too, which come back on the very same node"
                hint = "with: {skipKinds: [DaemonSet]}"
                path = ("spec", phase, n, "action")
                report(path, "deletes-daemonset", what, hint, severity="warning")


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


def not_deployed(files: Files) -> Iterator[Finding]:
    """Files that the ``configMapGenerator`` of the folder's kustomization forgets."""
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
        if path not in listed and (path == VALUES or _is_deployable(files.files[path])):
            what = f"{name} does not list it, so no cluster gets it"
            yield Finding(
                Location(files.shown(path), 1, 1), "not-deployed", what, f"- {path}", "warning"
            )


def _is_deployable(content: bytes) -> bool:
    """Whether a file has a document that the engine loads; tests stay at home."""
    documents, _ = read(content, "")
    kinds = [d.data.get("kind") for d in documents if isinstance(d.data, dict)]
    return any(kind in ("Playbook", "Silence", "Guardrails") for kind in kinds)
