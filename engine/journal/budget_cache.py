"""Budget windows in memory, in front of a store that only this process writes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

T = TypeVar("T")
MAX_WINDOWS = 10_000
"""Windows in memory. With more of them, each change also deletes the windows that are over."""


class BudgetCache:
    """The windows of the budgets: key -> JSON object with ``until`` (epoch seconds). Thread-safe.

    save: writes changed windows to disk (None: delete the window). A cache without it is for previews.
    """

    def __init__(
        self,
        windows: Mapping[str, Any] | None = None,
        save: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._windows: dict[str, Any] = dict(windows or {})
        self._save = save
        self._lock = threading.Lock()

    def budget_windows(self) -> Mapping[str, Any]:
        """See BudgetStore.budget_windows."""
        with self._lock:
            return dict(self._windows)

    def update_budgets(
        self,
        keys: Collection[str],
        decide: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], T]],
        now: float,
    ) -> T:
        """See BudgetStore.update_budgets. Changes that cannot be saved have no effect."""
        with self._lock:
            found = {key: self._windows[key] for key in keys if key in self._windows}
            changes, result = decide(found)
            if len(self._windows) > MAX_WINDOWS:
                over = [key for key, window in self._windows.items() if window["until"] < now]
                changes = dict.fromkeys(over) | dict(changes)
            if changes and self._save:
                self._save(changes)
            for key, window in changes.items():
                if window is None:
                    self._windows.pop(key, None)
                else:
                    self._windows[key] = window
        return result
