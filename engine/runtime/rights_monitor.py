"""Checks the rights of the engine at start, after each reload and every few minutes, in a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from engine.execution.rights_check import check_rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.actions.registry import Right
    from engine.cluster.client import KubernetesCluster
    from engine.execution.rights_check import RightsReport
    from engine.telemetry.metrics import Series

    Needed = Mapping[str, frozenset[Right]]

log = structlog.get_logger()
INTERVAL = 300.0
"""Seconds between two checks of the same playbooks. A changed role is noticed within this time."""
_FIRST_WAIT, _MAX_WAIT = 2.0, 60.0
"""Seconds until the next check if the rights are not known. The wait doubles each time."""
_HINT = "tiercel rbac PLAYBOOKS prints the roles"


class RightsMonitor:
    """Keeps the report about the rights up to date. Logs a report that differs from the one before.

    namespace: the engine's. report: receives each report.
    """

    def __init__(
        self,
        cluster: KubernetesCluster,
        namespace: str | None,
        report: Callable[[RightsReport], None],
        now: Callable[[], float],
    ) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._send, self._now = report, now
        self._needed: Needed | None = None
        self._changed, self._stopping = threading.Event(), False
        self._report: RightsReport | None = None
        self._thread = threading.Thread(target=self._work, name="tiercel-rights", daemon=True)

    def start(self) -> None:
        """Start the thread. It waits for the first ``require``."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after the current call."""
        self._stopping = True
        self._changed.set()

    def require(self, needed: Needed) -> None:
        """Check these rights now. needed: by account (see ``rights_by_account``)."""
        self._needed = needed
        self._changed.set()

    def series(self) -> Iterator[Series]:
        """Yield the metrics of the last report."""
        for one in self._report.accounts if self._report else ():
            account = {"account": one.account}
            yield "rights_known", account, float(not one.error)
            yield "rights_missing", account, len(one.missing)
            yield "rights_excess", account, len(one.excess)

    def _work(self) -> None:
        wait: float | None = None
        retry = _FIRST_WAIT
        while True:
            if self._changed.wait(wait):
                self._changed.clear()
                retry = _FIRST_WAIT
            if self._stopping:
                return
            if self._needed is None:
                continue
            report = check_rights(self._cluster, self._namespace, self._needed, self._now())
            wait, retry = (INTERVAL, _FIRST_WAIT) if report.complete else (retry, retry * 2)
            retry = min(retry, _MAX_WAIT)
            before, self._report = self._report, report
            self._send(report)  # before the log, so that /status shows what a line of the log says
            self._log(report, before)

    @staticmethod
    def _log(report: RightsReport, last: RightsReport | None) -> None:
        """Log what changed since the last report."""
        before = {one.account: one for one in last.accounts} if last else {}
        for one in report.accounts:
            if before.get(one.account) == one:
                continue
            account = one.account or None
            if one.error:
                log.warning("rights_unknown", account=account, error=one.error)
            elif one.missing:
                log.error("rights_missing", account=account, missing=one.missing, hint=_HINT)
            if one.excess:
                log.warning("rights_in_excess", account=account, excess=one.excess, hint=_HINT)
            if not (one.error or one.missing or one.excess):
                log.info("rights_checked", account=account, by_namespace=one.by_namespace)
