"""A small API server client for tests: JSON by path, with one bearer token."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import urllib3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
NOT_FOUND = 404
TIMEOUT = urllib3.Timeout(connect=2.0, read=30.0)


class ApiError(Exception):
    """An error response: its status code, and its ``Status`` object as ``body``."""

    def __init__(self, status: int, body: Any) -> None:
        message = body.get("message") if isinstance(body, dict) else body
        super().__init__(f"{status}: {message}")
        self.status = status
        self.body = body


class Api:
    """One identity at one API server.

    Paths begin with ``/api/`` or ``/apis/`` and may carry a query. Every method raises ApiError for
    an answer of 400 and above, and urllib3's HTTPError where there is none. Nothing is retried.
    """

    def __init__(self, server: str, token: str, ca: Path) -> None:
        self.server = server
        self._pool = urllib3.PoolManager(
            ca_certs=str(ca),
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT,
            maxsize=16,
        )

    def close(self) -> None:
        """Close the connections that are kept alive; the client may be used on."""
        self._pool.clear()

    def request(self, method: str, path: str, body: Any = None, content_type: str = JSON) -> Any:
        """The answer's JSON."""
        answer = self._pool.request(
            method,
            self.server + path,
            body=None if body is None else json.dumps(body),
            headers={**self._pool.headers, "Content-Type": content_type},
            retries=False,
        )
        return checked(answer.status, answer.data)

    def get(self, path: str) -> Any:
        """The object at that path."""
        return self.request("GET", path)

    def find(self, path: str) -> Any | None:
        """The object at that path, or None where there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def list(self, path: str) -> list[Any]:
        """The items of the collection at that path."""
        items: list[Any] = self.get(path)["items"]
        return items

    def create(self, collection: str, body: Any) -> Any:
        """The object that the server made of ``body``; POST, so it also serves subresources."""
        return self.request("POST", collection, body)

    def apply(self, path: str, body: Any, manager: str = "tests") -> Any:
        """The object after a forced server-side apply, made where it is missing."""
        query = f"{'&' if '?' in path else '?'}fieldManager={manager}&force=true"
        return self.request("PATCH", path + query, body, APPLY_PATCH)

    def patch(self, path: str, body: Any) -> Any:
        """The object after a JSON merge patch."""
        return self.request("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str, body: Any = None) -> Any:
        """What the server says to a DELETE; ``body`` is its ``DeleteOptions``."""
        return self.request("DELETE", path, body)

    def watch(self, collection: str, version: str, seconds: int) -> Iterator[Any]:
        """The events of a collection after that resourceVersion; the server ends it."""
        query = f"?watch=true&resourceVersion={version}&timeoutSeconds={seconds}"
        answer = self._pool.request(
            "GET", self.server + collection + query, preload_content=False, retries=False
        )
        try:
            if answer.status >= 400:
                checked(answer.status, answer.read())
            rest = b""
            for chunk in answer.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
        finally:
            answer.close()

    def wait_for(
        self, path: str, predicate: Callable[[Any], bool], timeout: float = 20.0
    ) -> Any | None:
        """The object (or list) at that path, as soon as it satisfies the predicate.

        predicate: gets None where there is no object, so ``lambda it: it is None`` waits for its
        end. timeout: in seconds; past it AssertionError shows what was there last. A server that is
        away or overloaded is asked again, a refusal (ApiError) is raised at once.
        """
        deadline = time.monotonic() + timeout
        seen: Any = "no answer"
        while time.monotonic() < deadline:
            try:
                seen = self.find(path)
                if predicate(seen):
                    return seen
            except urllib3.exceptions.HTTPError as error:
                seen = repr(error)
            except ApiError as error:
                if error.status not in {429, 500, 503}:
                    raise
                seen = str(error)
            threading.Event().wait(0.05)
        raise AssertionError(f"{path} is not what the test waits for after {timeout} s: {seen}")


def checked(status: int, data: bytes) -> Any:
    """Return the JSON of a response. Raises ApiError for a status of 400 or more."""
    try:
        body = json.loads(data)
    except ValueError:
        body = data.decode(errors="replace")
    if status >= 400:
        raise ApiError(status, body)
    return body
