"""Reading of Kubernetes objects from a file (``plan --cluster``) or a PlaybookTest, with validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.model.calls import Object

MAX_BYTES = 256 << 20
MAX_DEPTH = 64
MAX_VALUES = 20_000_000
"""Values of a YAML file; a value with an alias counts once for each use of the alias."""

Path = tuple[str | int, ...]

_ANY = "*"
_SHAPE: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {
        "name": str,
        "namespace": str,
        "uid": str,
        "labels": {_ANY: str},
        "annotations": {_ANY: str},
        "ownerReferences": [{"kind": str, "name": str, "uid": str}],
    },
    "spec": {"nodeName": str, "priorityClassName": str},
    "status": {
        "conditions": [{}],
        "containerStatuses": [{}],
        "initContainerStatuses": [{}],
        "ephemeralContainerStatuses": [{}],
    },
}
"""The types that the engine relies on. Mappings and lists describe their content; ``*`` is any key."""


class InvalidObjectError(ValueError):
    """The input is not a valid description of Kubernetes objects.

    path: of the wrong value; in a file, it starts with the number of the document. line: counts from 1; None if
    unknown.
    """

    def __init__(self, what: str, path: Path = (), line: int | None = None) -> None:
        super().__init__(what)
        self.path, self.line = path, line


def read_objects(content: bytes) -> list[Object]:
    """Return the objects of a YAML or JSON file: documents, lists and ``List``s. Raises InvalidObjectError."""
    if len(content) > MAX_BYTES:
        raise InvalidObjectError(f"the file is larger than {MAX_BYTES >> 20} MiB")
    try:
        documents = _documents(content)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = mark.line + 1 if mark else None
        raise InvalidObjectError(
            f"the file is neither JSON nor YAML: {problem or error}", line=line
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidObjectError(f"the file is not UTF-8: {error.reason}") from None
    try:
        return list(iter_objects(documents))
    except InvalidObjectError as error:
        raise InvalidObjectError(str(error), error.path, _line(content, error.path)) from None


def iter_objects(document: Any, path: Path = ()) -> Iterator[Object]:
    """Yield the objects of a document, of a list of documents or of a ``List``.

    path: of the document, for errors. Raises InvalidObjectError.
    """
    if isinstance(document, list):
        for n, item in enumerate(document):
            yield from iter_objects(item, (*path, n))
    elif isinstance(document, dict) and _is_list(document):
        items = document["items"] or []
        if not isinstance(items, list):
            raise InvalidObjectError("`items` of a List is not a list", (*path, "items"))
        for n, item in enumerate(items):
            yield from iter_objects(_with_kind(item, document), (*path, "items", n))
    elif document is not None:
        yield _checked(document, path)


def _is_list(document: dict[Any, Any]) -> bool:
    """Return whether a document is a ``List`` or a typed list. A custom resource ``…List`` has no ``items``."""
    kind = document.get("kind")
    return isinstance(kind, str) and kind.endswith("List") and "items" in document


def _with_kind(item: Any, typed_list: Object) -> Any:
    """Return an item with the kind of its typed list, such as PodList."""
    kind = typed_list["kind"].removesuffix("List")
    if not kind or not isinstance(item, dict) or "kind" in item:
        return item
    return {"apiVersion": typed_list.get("apiVersion"), **item, "kind": kind}


def _checked(item: Any, path: Path) -> Object:
    """Return an object that has the expected types. Raises InvalidObjectError."""
    if not isinstance(item, dict):
        raise InvalidObjectError("an object must be a mapping with `kind` and `metadata`", path)
    metadata = item.get("metadata")
    if not item.get("kind") or not isinstance(metadata, dict):
        raise InvalidObjectError("the object has no `kind` or no `metadata`", path)
    if not metadata.get("name"):
        raise InvalidObjectError(
            f"{_shown(item['kind'])} has no metadata.name", (*path, "metadata")
        )
    for where, what in _mistakes(item, _SHAPE, ()):
        name = f"{_text(item['kind'])} {_text(metadata['name'])}"
        raise InvalidObjectError(f"{name}: {'.'.join(map(str, where))} {what}", (*path, *where))
    return item


def _mistakes(value: Any, shape: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and description of each value whose type differs from the shape. Null is an absent value."""
    if shape is str:
        if not isinstance(value, str):
            yield path, f'is {_shown(value)}, which is not a string; quote it: "{_text(value)}"'
    elif not isinstance(value, type(shape)):
        yield path, f"is not a {'list' if isinstance(shape, list) else 'mapping'}"
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _mistakes(item, shape[0], (*path, n))
    else:
        for key, inner in value.items():
            wanted = shape.get(key, shape.get(_ANY))
            if _ANY in shape and not isinstance(key, str):
                yield (*path, _text(key)), "has a name that is not a string; quote it"
            elif wanted is not None and (inner is not None or _ANY in shape):
                yield from _mistakes(inner, wanted, (*path, key))


def _shown(value: Any) -> str:
    """Return a value in backticks, for a message."""
    return f"`{_text(value)}`"


def _text(value: Any) -> str:
    """Return a value as YAML writes it, up to 60 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"  # noqa: PLR2004 - part of a line


def _documents(content: bytes) -> list[Any]:
    """Return the documents of a file. Raises InvalidObjectError, yaml.YAMLError, UnicodeDecodeError."""
    try:
        return [msgspec.json.decode(content)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _check_size(content)
        return list(yaml.load_all(content, _Loader))


def _check_size(content: bytes) -> None:
    """Raise InvalidObjectError if a file is nested too deep or has too many values.

    The YAML loader recurses in C, so a deep file would crash the process.
    """
    total = 0
    sizes: dict[str | None, int] = {}
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(content, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                what = f"the alias *{_text(event.anchor)} is inside its own anchor"
                raise InvalidObjectError(what, line=getattr(event.start_mark, "line", 0) + 1)
            total += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = total - before
        elif isinstance(event, yaml.NodeEvent):
            total += 1
            sizes[event.anchor] = 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, total - 1))
        if len(opened) > MAX_DEPTH or total > MAX_VALUES:
            many = f"the file has more than {MAX_VALUES:,} values with aliases written out"
            deep = f"the file is nested deeper than {MAX_DEPTH} levels"
            what = deep if len(opened) > MAX_DEPTH else many
            raise InvalidObjectError(what, line=getattr(event.start_mark, "line", 0) + 1)


def _line(content: bytes, path: Path) -> int | None:
    """Return the line of the value at a path, or of the nearest value around it. None if it is not YAML."""
    try:
        document, *rest = path
        node = list(yaml.compose_all(content, _Loader))[int(document)]
    except (yaml.YAMLError, ValueError, IndexError):
        return None
    for step in rest:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(step)]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == step), node)
    return int(node.start_mark.line) + 1


class _Loader(yaml.CSafeLoader):
    """A loader that keeps times and a plain ``=`` as text, as in the JSON of the API server."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, regex) for tag, regex in resolvers if not tag.endswith((":timestamp", ":value"))]
    for letter, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
