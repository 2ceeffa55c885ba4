"""Real Prometheus and Alertmanager servers on loopback, and promtool."""

from __future__ import annotations

import json
import re
import subprocess
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import yaml
from tests.support.components import Server, have
from tests.support.engine import PATIENCE, call, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Sample = dict[str, Any]

SCRAPE_INTERVAL = "200ms"


class _Monitor(Server):
    """A server with a folder of its own, a readiness page and an HTTP API."""

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{self.address}"

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        super().start()
        wait_until(lambda: call(self.url, "GET", "/-/ready")[0] == 200, lambda: "not ready")

    def get(self, path: str, **parameters: str) -> Any:
        """Send a GET. Returns the JSON of the answer, which must be a success."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        status, _, answer = call(self.url, "GET", path + query)
        assert status == 200, (path, parameters, answer)
        return answer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Prometheus(_Monitor):
    """A Prometheus server. The first scrape of a static target is about 5 seconds after the start.

    config: the content of its configuration file, without ``global``. Use ``static_config`` for the targets.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], interval: str = SCRAPE_INTERVAL
    ) -> None:
        super().__init__(folder)
        settings = {"scrape_interval": interval, "evaluation_interval": interval}
        self._config = folder / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump({"global": settings, **config}))
        self._targets = sum(
            len(static["targets"])
            for scrape in config.get("scrape_configs", ())
            for static in scrape.get("static_configs", ())
        )

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            have("prometheus"), "--config.file", str(self._config), "--storage.tsdb.path",
            str(self.folder / "data"), "--web.listen-address", self.address, "--log.level", "error",
        ]  # fmt: skip

    def query(self, expression: str) -> list[Sample]:
        """Evaluate an expression now. Returns its samples: ``{metric: labels, value: [time, text]}``."""
        data = self.get("/api/v1/query", query=expression)["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[Sample] = data["result"]
        return found

    def query_range(self, expression: str, seconds: float, step: float) -> list[Sample]:
        """Evaluate an expression over the last seconds, as a panel does. Returns its series."""
        now = time.time()
        parameters = {"start": str(now - seconds), "end": str(now), "step": str(step)}
        answer = self.get("/api/v1/query_range", query=expression, **parameters)
        found: list[Sample] = answer["data"]["result"]
        return found

    def wait_for(
        self, expression: str, is_met: Callable[[list[Sample]], Any] = bool
    ) -> list[Sample]:
        """Evaluate an expression until the samples meet the condition. The default: there is one."""
        return _wait(lambda: self.query(expression), is_met, expression)

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        found: list[dict[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return found

    def wait_for_scrape(self) -> None:
        """Wait until each target of the configuration was scraped with success after this call."""
        called = time.time()

        def is_met(targets: list[dict[str, Any]]) -> bool:
            return len(targets) >= self._targets and all(
                one["health"] == "up" and _seconds(one["lastScrape"]) > called for one in targets
            )

        _wait(lambda: self.get("/api/v1/targets")["data"]["activeTargets"], is_met, "targets")


class Alertmanager(_Monitor):
    """An Alertmanager server. config: the content of its configuration file."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self._config = folder / "alertmanager.yaml"
        self._config.write_text(yaml.safe_dump(dict(config)))

    def command(self) -> list[str]:
        """Return the command line. The server does not form a cluster."""
        return [
            have("prometheus-alertmanager"), "--config.file", str(self._config), "--storage.path",
            str(self.folder / "data"), "--web.listen-address", self.address, "--cluster.listen-address=",
            "--log.level", "error",
        ]  # fmt: skip

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that it received and that have not ended."""
        found: list[dict[str, Any]] = self.get("/api/v2/alerts")
        return found

    def wait_for(self, is_met: Callable[[list[dict[str, Any]]], Any]) -> list[dict[str, Any]]:
        """Wait until its alerts meet the condition. Returns them."""
        return _wait(self.alerts, is_met, "alerts")


def static_config(*urls: str, **labels: str) -> dict[str, Any]:
    """Return an element of ``static_configs`` for servers: the labels are added to each series."""
    return {"targets": [url.removeprefix("http://") for url in urls], "labels": labels}


def promtool(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool, for example ``promtool("check", "rules", file)``."""
    return subprocess.run(
        [have("promtool"), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _wait(read: Callable[[], Any], is_met: Callable[[Any], Any], what: str) -> Any:
    found = None

    def holds() -> Any:
        nonlocal found
        found = read()
        return is_met(found)

    wait_until(holds, lambda: f"{what}: {json.dumps(found)}")
    return found


def _seconds(text: str) -> float:
    """Return the seconds since the epoch of a time as Go prints it: with up to nine digits of a fraction."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
