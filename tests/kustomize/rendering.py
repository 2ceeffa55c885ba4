"""Render a folder with the real kustomize, and validate manifests with kubeconform.

The schemas come from the API server of the tests, so they are those of its Kubernetes version.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster import build
from tests.cluster.fixtures import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.cluster.api import Api

    Manifest = dict[str, Any]

KUSTOMIZE = Path(__file__).parents[2] / "kustomize"
REFERENCE = "#/definitions/"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
TEMPLATE = "{{.ResourceKind}}{{.KindSuffix}}.json"


class RenderError(Exception):
    """kustomize or kubeconform refused its input. The message is what it printed."""


def render(folder: Path) -> list[Manifest]:
    """Return the manifests of a folder with a kustomization, in their order. Raises RenderError."""
    return list(yaml.load_all(render_text(folder), Loader=_LOADER))


@functools.cache
def render_text(folder: Path) -> str:
    """Return the YAML of a folder with a kustomization. Raises RenderError.

    The result is cached for each path. A test that changes its folder renders another one.
    """
    require("kustomize")
    return _run([str(build.find("kustomize")), "build", str(folder)])


def compose(
    folder: Path, resource: Path | str, components: Iterable[str] = (), **more: Any
) -> Path:
    """Write a kustomization and return its folder, which is created.

    resource: what it is built on. components: names of folders below kustomize/components. more: other fields.
    """
    folder.mkdir(parents=True)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(resource, folder)],
        "components": [
            os.path.relpath(KUSTOMIZE / "components" / one, folder) for one in components
        ],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def find(manifests: Iterable[Manifest], kind: str, name: str = "tiercel") -> Manifest:
    """Return the one manifest with that kind and name."""
    [found] = [it for it in manifests if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return found


def validate(manifests: Sequence[Manifest], admin: Api, crds: Iterable[Manifest] = ()) -> None:
    """Validate manifests with kubeconform. An unknown kind or field is an error. Raises RenderError.

    admin: the API server whose schemas are used. crds: CustomResourceDefinitions of other kinds.
    """
    require("kubeconform")
    with tempfile.TemporaryDirectory(dir=_schemas(admin)) as more:
        for crd in crds:
            _write_crd(Path(more), crd)
        folders = [str(_schemas(admin)), *([more] if crds else [])]
        locations = [flag for one in folders for flag in ("-schema-location", f"{one}/{TEMPLATE}")]
        command = [str(build.find("kubeconform")), "-strict", *locations, "-output", "json", "-"]
        _run(command, yaml.safe_dump_all(manifests))


def apply(manifests: Iterable[Manifest], admin: Api, *, dry_run: bool = False) -> None:
    """Apply manifests by server-side apply, in their order. dry_run: admission and validation only."""
    for manifest in manifests:
        admin.apply(path_of(manifest, admin) + "?dryRun=All" * dry_run, manifest)


def path_of(manifest: Manifest, admin: Api) -> str:
    """Return the path of an object at the API server."""
    resource, namespaced = _resources(admin, manifest["apiVersion"])[manifest["kind"]]
    version = manifest["apiVersion"]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{manifest['metadata']['namespace']}" if namespaced else ""
    return f"{prefix}{namespace}/{resource}/{manifest['metadata']['name']}"


@functools.cache
def _resources(admin: Api, version: str) -> dict[str, tuple[str, bool]]:
    found = admin.get(f"/apis/{version}" if "/" in version else f"/api/{version}")["resources"]
    return {it["kind"]: (it["name"], it["namespaced"]) for it in found if "/" not in it["name"]}


@functools.cache
def _schemas(admin: Api) -> Path:
    """Return a folder with one JSON schema for each kind of the API server."""
    folder = Path(tempfile.mkdtemp(prefix="tiercel-schemas-"))
    definitions = {
        name: _strict(schema) for name, schema in admin.get("/openapi/v2")["definitions"].items()
    }
    definitions[QUANTITY] = {"type": ["string", "number"]}
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            version = f"{kind['group']}/{kind['version']}".lstrip("/")
            document = {"$ref": REFERENCE + name, "definitions": _used(name, definitions)}
            (folder / _file_name(kind["kind"], version)).write_text(json.dumps(document))
    return folder


def _write_crd(folder: Path, crd: Manifest) -> None:
    names, group = crd["spec"]["names"], crd["spec"]["group"]
    for version in crd["spec"]["versions"]:
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema.setdefault("properties", {})
        schema["properties"] |= {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        }  # fmt: skip
        file = folder / _file_name(names["kind"], f"{group}/{version['name']}")
        file.write_text(json.dumps(schema))


def _file_name(kind: str, api_version: str) -> str:
    """Return the name that kubeconform gives a schema: the kind, the first part of the group, the version."""
    group, _, version = api_version.rpartition("/")
    parts = [kind, *([group.partition(".")[0]] if group else []), version]
    return "-".join(parts).lower() + ".json"


def _strict(schema: Any) -> Any:
    """Return a schema of OpenAPI as a JSON schema in which unknown fields are errors."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items() if key != "format"}
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["string", "integer"]
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        made.setdefault("additionalProperties", False)
    return made


def _used(name: str, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definitions that one refers to, directly or not, and itself."""
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = definitions[one]
            waiting += _references(definitions[one])
    return found


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for one in schema for name in _references(one)]
    if not isinstance(schema, dict):
        return []
    own = schema.get("$ref")
    found = [own.removeprefix(REFERENCE)] if isinstance(own, str) else []
    return found + [name for value in schema.values() for name in _references(value)]


def _run(command: list[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(done.stderr or done.stdout)
    return done.stdout


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
