"""The revision of a set of playbooks, and the Git blob id of a playbook file, as untrusted text."""

from __future__ import annotations

import re

MAX_REVISION = 100
"""Characters of a revision."""
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:+-]*")
_UNKNOWN = ("", "unknown", "none", "null", "head")
"""Words, in lower case, that a template contains until a deployment tool replaces them."""
_BLOB = re.compile(r"[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def parse_revision(text: object) -> str:
    """Return a commit id, or the name of a tag or branch. Return "" for everything else: it is unknown."""
    name = text.strip() if isinstance(text, str) and len(text) <= 2 * MAX_REVISION else ""
    if name.lower() in _UNKNOWN or len(name) > MAX_REVISION or ".." in name:
        return ""
    return name if _REVISION.fullmatch(name) else ""


def parse_blob(text: object) -> str:
    """Return a Git blob id of 40 hex digits. Return "" for everything else."""
    return text if isinstance(text, str) and _BLOB.fullmatch(text) else ""


def is_commit_id(revision: str) -> bool:
    """Return whether a revision is the id of a commit, which cannot name another commit later."""
    return bool(_COMMIT.fullmatch(revision))
