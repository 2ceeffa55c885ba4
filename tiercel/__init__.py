"""The interface for plugins: what an action in another package imports. docs/plugins.md describes it.

The names stay compatible within a major version. Modules of ``engine`` can change in every release.
"""

from engine.actions.composite_parameters import Json, ListOf, MapOf, Record, SecretOr
from engine.actions.managed_objects import ownership_metadata, require_managed, short_digest
from engine.actions.parameters import Choice, Duration, Integer, KindName, Network, Secret, Text
from engine.actions.registry import ActionResult, StepContext, action
from engine.cluster.api import AlreadyExistsError, Cluster
from engine.cluster.pods import Pod
from engine.model.calls import Call, Kind, ObjectChange
from engine.model.errors import (
    GoneError,
    PermanentError,
    RefusedError,
    SkippedError,
    TemporaryError,
)

__all__ = [
    "ActionResult",
    "AlreadyExistsError",
    "Call",
    "Choice",
    "Cluster",
    "Duration",
    "GoneError",
    "Integer",
    "Json",
    "Kind",
    "KindName",
    "ListOf",
    "MapOf",
    "Network",
    "ObjectChange",
    "PermanentError",
    "Pod",
    "Record",
    "RefusedError",
    "Secret",
    "SecretOr",
    "SkippedError",
    "StepContext",
    "TemporaryError",
    "Text",
    "action",
    "ownership_metadata",
    "require_managed",
    "short_digest",
]
