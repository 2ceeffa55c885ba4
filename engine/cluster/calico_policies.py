"""Whether a policy of Calico selects a pod for egress, with the selectors of Calico.

The language is that of libcalico-go/lib/selector: ``app == 'web' && env in {'a', 'b'} && !has(quarantine)``.
The functions never raise. They return None (not known) for a selector that cannot be parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.cluster.label_selectors import Object, as_list, as_object

Predicate = Callable[[Mapping[str, str]], bool]

_MAX_LENGTH = 10_000
_MAX_DEPTH = 50
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<op>&&|\|\||==|!=|[!(){},])"
    r"|(?P<word>[A-Za-z0-9_./-]+))"
)
_ANY_POD: Predicate = lambda _: True  # noqa: E731 - a predicate like the others


class _Unreadable(ValueError):  # noqa: N818 - internal
    """The selector is not in the language."""


def selects_for_egress(
    policy: Object, pod: Object, namespace_labels: Mapping[str, str]
) -> bool | None:
    """Return whether a NetworkPolicy or GlobalNetworkPolicy of Calico selects a pod for egress. None: not known.

    namespace_labels: of the pod's namespace.
    """
    spec, metadata = as_object(policy.get("spec")), as_object(pod.get("metadata"))
    default = [kind for kind, key in (("Egress", "egress"),) if as_list(spec.get(key))]
    if "Egress" not in (as_list(spec.get("types")) or default):
        return False
    namespace = metadata.get("namespace")
    own = as_object(policy.get("metadata")).get("namespace")
    if own is not None and own != namespace:
        return False
    pod_spec = as_object(pod.get("spec"))
    labels = {
        **as_object(metadata.get("labels")),
        "projectcalico.org/namespace": str(namespace),
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": str(pod_spec.get("serviceAccountName") or "default"),
    }
    around = {**namespace_labels, "projectcalico.org/name": str(namespace)}
    parts = (
        _matches(spec.get("selector"), labels),
        _matches(spec.get("namespaceSelector"), around),
        None
        if spec.get("serviceAccountSelector")
        else True,  # labels of an object that is not read
    )
    if False in parts:
        return False
    return None if None in parts else True


def _matches(selector: Any, labels: Mapping[str, str]) -> bool | None:
    if selector is None or selector == "":
        return True
    predicate = parse_selector(selector)
    return None if predicate is None else predicate(labels)


def parse_selector(text: Any) -> Predicate | None:
    """Return a predicate over labels for a selector of Calico, or None if it cannot be read."""
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        return None
    try:
        parser = _Parser(list(_tokens(text)))
        predicate = parser.any_of(0)
        parser.expect("")
    except _Unreadable:
        return None
    return predicate


def _tokens(text: str) -> Iterator[str]:
    """Yield the tokens. A string keeps its first quote, so that it is not mistaken for a word."""
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise _Unreadable
        string = found["text"]
        yield f"'{string[1:-1]}" if string else found["op"] or found["word"]
        position = found.end()


class _Parser:
    """A parser by recursive descent. ``||`` binds weaker than ``&&``, which binds weaker than ``!``."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0

    def any_of(self, depth: int) -> Predicate:
        """Read an expression."""
        parts = [self._all_of(depth)]
        while self._take("||"):
            parts.append(self._all_of(depth))
        return parts[0] if len(parts) == 1 else lambda labels: any(p(labels) for p in parts)

    def expect(self, token: str) -> None:
        """Read this token; an empty one is the end. Raises _Unreadable."""
        if not self._take(token):
            raise _Unreadable

    def _all_of(self, depth: int) -> Predicate:
        parts = [self._single(depth)]
        while self._take("&&"):
            parts.append(self._single(depth))
        return parts[0] if len(parts) == 1 else lambda labels: all(p(labels) for p in parts)

    def _single(self, depth: int) -> Predicate:
        if depth > _MAX_DEPTH:
            raise _Unreadable
        if self._take("!"):
            inner = self._single(depth + 1)
            return lambda labels: not inner(labels)
        if self._take("("):
            inner = self.any_of(depth + 1)
            self.expect(")")
            return inner
        return self._term()

    def _term(self) -> Predicate:
        key = self._word()
        if key in ("all", "global", "has") and self._take("("):
            name = self._word() if key == "has" else ""
            self.expect(")")
            return (lambda labels: name in labels) if name else _ANY_POD
        if self._take("=="):
            wanted = self._string()
            return lambda labels: labels.get(key) == wanted
        if self._take("!="):
            wanted = self._string()
            return lambda labels: labels.get(key) != wanted
        negative = self._take("not")
        if self._take("in"):
            values = self._set()
            return lambda labels: (labels.get(key) in values) is not negative
        if negative:
            raise _Unreadable
        return self._text_test(key)

    def _text_test(self, key: str) -> Predicate:
        """Read ``contains``, ``starts with`` or ``ends with``. A missing label matches none of them."""
        word = self._word()
        tests: dict[str, Callable[[str, str], bool]] = {
            "contains": lambda value, part: part in value,
            "starts": str.startswith,
            "ends": str.endswith,
        }
        if word not in tests:
            raise _Unreadable
        if word != "contains":
            self.expect("with")
        part, test = self._string(), tests[word]
        return lambda labels: key in labels and test(labels[key], part)

    def _set(self) -> frozenset[str | None]:
        self.expect("{")
        values: list[str | None] = []
        while not self._take("}"):
            values.append(self._string())
            if not self._take(","):
                self.expect("}")
                break
        return frozenset(values)

    def _take(self, token: str) -> bool:
        found = self._peek() == token
        self._next += found
        return found

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _word(self) -> str:
        token = self._peek()
        if not re.match("[A-Za-z0-9_./-]", token):
            raise _Unreadable
        self._next += 1
        return token

    def _string(self) -> str:
        token = self._peek()
        if not token.startswith("'"):
            raise _Unreadable
        self._next += 1
        return token[1:]
