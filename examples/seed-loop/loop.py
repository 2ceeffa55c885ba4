"""The seed loop on a machine without a cluster (`make loop`).

Real: etcd, the API server and the controllers, the engine, Prometheus, Alertmanager. Stand-ins: the kubelet,
Falco, Falcosidekick, the log collector, Loki, Slack. Everything listens on 127.0.0.1.

It replays both detections, prints what appears at each component, and runs until Ctrl-C. With --once it ends
after the last step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import urllib3
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(FOLDER)]  # the control plane of the tests, and the stand-ins

from tests.cluster.control_plane import ControlPlane, StartError, free_ports  # noqa: E402 - the same
from tests.cluster.fixtures import create_engine_token  # noqa: E402 - the same
from tests.cluster.kubelet import Kubelet  # noqa: E402 - the same
from tests.support.kubelet_files import Mount  # noqa: E402 - the same
from tests.support.prometheus import Alertmanager, Prometheus, static_config  # noqa: E402 - the same

from falcosidekick import Falco, Falcosidekick  # noqa: E402 - the path is set above
from stand_ins import AlertReceiver, Loki, Slack  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO

    from tests.cluster.api import Api

READY = 60.0
"""Seconds until a step of the loop fails. Nothing normally takes that long."""
LABELS = {
    "rule": "rule", "priority": "priority", "k8s_ns_name": "namespace", "k8s_pod_name": "pod",
}  # fmt: skip
"""Label of an audit line in Loki -> key of the line. The same as in alloy/config.alloy."""
POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
PROGRAMS = ("prometheus", "prometheus-alertmanager")
SHELL = ("terminal-shell.json", "terminal-shell-in-container", "terminal-shell-replace")
EGRESS = ("vistatech.json", "isolate-forbidden-egress")
"""The sample event of a detection, and the playbooks that react to it."""


class Engine:
    """The engine as a process, with its playbooks in a folder like a mounted ConfigMap.

    events, admin: URLs of its ports. They stay the same after a restart.
    """

    def __init__(
        self, folder: Path, kubeconfig: Path, slack: str, collect: Callable[[bytes], None]
    ) -> None:
        self._folder, self._collect = folder, collect
        events, admin = free_ports(2)
        self.events, self.admin = f"http://127.0.0.1:{events}/events", f"http://127.0.0.1:{admin}"
        self.sender_token, self.view_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.operator_token = secrets.token_urlsafe(24)
        self.mount = Mount(folder / "playbooks", shipped_playbooks())
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._write("tokens", self.sender_token)
        self._write("scrape-token", self.view_token)
        self._write("operator-token", self.operator_token)
        operators = (
            ("prometheus", "view", self.view_token),
            ("demo", "operate", self.operator_token),
        )
        lines = (f"{name} {role} {_sha256(token)}\n" for name, role, token in operators)
        self._write("operators", "".join(lines))
        self._write("secrets/slack-webhook-url", slack)
        self.journal = folder / "journal" / "tiercel.db"
        self.journal.parent.mkdir()
        self._command = [
            sys.executable, "-m", "engine", "serve", "--playbooks", str(self.mount.folder),
            "--listen", f"127.0.0.1:{events}", "--admin-listen", f"127.0.0.1:{admin}",
            "--journal", str(self.journal), "--kubeconfig", str(kubeconfig),
            "--secrets-dir", str(folder / "secrets"), "--token-file", str(folder / "tokens"),
            "--operators-file", str(folder / "operators"), "--log-format", "json",
        ]  # fmt: skip

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("TIERCEL_", "KUBERNETES_"))
        }
        # The Kubernetes client leaves a folder for the certificates of a kubeconfig behind.
        kept |= {"TMPDIR": str(self._folder)}
        variables = {**kept, "PYTHONPATH": str(ROOT), "TIERCEL_POD_NAMESPACE": "tiercel"}
        with (self._folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=variables, cwd=self._folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout  # noqa: S101 - a pipe
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        wait_until(lambda: self._ended() or self.is_ready(), "the engine is ready")
        if self._ended():
            text = (self._folder / "engine.log").read_text(errors="replace")
            raise StartError(f"the engine ended:\n{text[-2_000:]}")

    def stop(self) -> None:
        """Stop the process as the kubelet does, with SIGTERM."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(READY)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None
        if self._reader is not None:
            self._reader.join()

    def is_ready(self) -> bool:
        """Return whether /readyz answers 200."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            answer = urllib3.request("GET", f"{self.admin}/readyz", retries=False, timeout=5.0)
            return answer.status == 200  # noqa: PLR2004 - OK
        return False

    def get(self, path: str) -> Any:
        """Return the JSON of a page of the admin port."""
        answer = urllib3.request(
            "GET", self.admin + path, retries=False, timeout=30.0,
            headers={"Authorization": f"Bearer {self.operator_token}"},
        )  # fmt: skip
        return answer.json()

    def _read(self, stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                self._collect(line)

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)


class Collector:
    """A stand-in for Alloy with alloy/config.alloy: pushes audit lines to Loki.

    It keeps at most 10,000 lines while Loki is not reachable, and tries again until it is stopped.
    """

    def __init__(self, push_url: str) -> None:
        self._url = push_url
        self._pool = urllib3.PoolManager(retries=False, timeout=5.0)
        self._lines: deque[dict[str, Any]] = deque(maxlen=10_000)
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def collect(self, line: bytes) -> None:
        """Take a line of the engine's stdout."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        if isinstance(record, dict) and ("attempt" in record or "decision" in record):
            with self._changed:
                self._lines.append({**stream(record), "line": line.decode().rstrip("\n")})
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._stopped)
                if self._stopped:
                    return
                one = self._lines[0]
            if self._push(one):
                with self._changed:
                    if self._lines and self._lines[0] is one:
                        self._lines.popleft()
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, 0.2)

    def _push(self, one: Mapping[str, Any]) -> bool:
        """Push a line. Return whether it is done: a line that Loki refuses is dropped, as Alloy does."""
        body = {"streams": [{"stream": one["labels"], "values": [[one["time"], one["line"]]]}]}
        try:
            status = self._pool.request("POST", self._url, json=body).status
        except urllib3.exceptions.HTTPError:
            return False
        return status < 500 and status != 429  # noqa: PLR2004 - Loki asks to try again


def stream(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels and the time in nanoseconds of an audit line."""
    labels = {label: record[key] for label, key in LABELS.items() if record.get(key)}
    moment = datetime.fromisoformat(record["time"])
    whole = int(moment.replace(microsecond=0).timestamp()) * 1_000_000
    return {
        "labels": {"source": "tiercel", **labels},
        "time": str((whole + moment.microsecond) * 1_000),
    }


class SeedLoop:
    """All components of the loop. A context manager that ends them.

    folder: for files. plane: a control plane whose pods run. namespace: of the demo Deployment. interval: of
    scrapes and of the evaluation of rules. pods: the names of the pods of the Deployment.
    """

    def __init__(
        self, folder: Path, plane: ControlPlane, namespace: str = "demo", interval: str = "1s"
    ) -> None:
        self.folder, self.plane, self.namespace = folder, plane, namespace
        self.admin: Api = plane.admin
        self._interval = interval
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        token = create_engine_token(self.admin)
        kubeconfig = self.plane.kubeconfig(token, self.folder / "kubeconfig.json")
        self.loki, self.slack = stack.enter_context(Loki()), stack.enter_context(Slack())
        self.receiver = stack.enter_context(AlertReceiver())
        push = f"{self.loki.url}/loki/api/v1/push"
        self.collector = stack.enter_context(Collector(push))
        self.engine = Engine(self.folder, kubeconfig, self.slack.webhook, self.collector.collect)
        header = {"Authorization": f"Bearer {self.engine.sender_token}"}
        self.falcosidekick = stack.enter_context(
            Falcosidekick(self.engine.events, push, self.slack.webhook, header)
        )
        self.falco = stack.enter_context(Falco(self.falcosidekick.url))
        alerts, metrics = self.folder / "alertmanager", self.folder / "prometheus"
        alerts.mkdir()
        metrics.mkdir()
        self.alertmanager = Alertmanager(alerts, alertmanager_config(self.receiver.url))
        self.prometheus = Prometheus(metrics, self._prometheus_config(), self._interval)
        for server in (self.alertmanager, self.prometheus):
            stack.enter_context(server)
        stack.callback(self.engine.stop)
        self.engine.start()
        self._deploy()

    def _prometheus_config(self) -> dict[str, Any]:
        """Return prometheus/prometheus.yaml with the addresses and files of this loop."""
        config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text())
        del config["global"]
        config["rule_files"] = [str(FOLDER / "prometheus" / name) for name in config["rule_files"]]
        config["alerting"]["alertmanagers"] = [
            {"static_configs": [static_config(self.alertmanager.url)]}
        ]
        urls = {
            "tiercel": self.engine.admin,
            "falcosidekick": self.falcosidekick.url,
            "falco": self.falco.url,
        }
        for job in config["scrape_configs"]:
            job.pop("kubernetes_sd_configs", None)
            job.pop("relabel_configs", None)
            job["static_configs"] = [static_config(urls[job["job_name"]])]
            if "authorization" in job:
                job["authorization"]["credentials_file"] = str(self.folder / "scrape-token")
        return config

    def _deploy(self) -> None:
        """Apply demo.yaml, and wait until its pods run."""
        for text in (FOLDER / "demo.yaml").read_text().split("\n---\n"):
            manifest = yaml.safe_load(
                text.replace("namespace: demo", f"namespace: {self.namespace}")
            )
            name = manifest["metadata"]["name"]
            if manifest["kind"] == "Namespace":
                manifest["metadata"]["name"] = self.namespace
                self.admin.apply(f"/api/v1/namespaces/{self.namespace}", manifest)
            elif manifest["kind"] == "Deployment":
                path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}"
                self.admin.apply(path, manifest)
            else:
                self.admin.apply(f"/api/v1/namespaces/{self.namespace}/services/{name}", manifest)
        self.pods = [pod["metadata"]["name"] for pod in self.running_pods()]

    def running_pods(self) -> list[dict[str, Any]]:
        """Wait until all pods of the Deployment run. Return them."""

        def running() -> list[dict[str, Any]]:
            pods = self.admin.list(
                f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app=nginx"
            )
            found = [pod for pod in pods if pod["status"].get("phase") == "Running"]
            return found if len(found) == 3 else []  # noqa: PLR2004 - the replicas of demo.yaml

        return wait_until(running, "the pods of the Deployment nginx run")

    def detect(self, sample: str, pod: str) -> dict[str, Any]:
        """Send a sample event as Falco, for that pod and the current time. Return the event."""
        found = self.admin.get(f"/api/v1/namespaces/{self.namespace}/pods/{pod}")
        container = found["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2][:12]
        event = sample_event(sample, self.namespace, pod, container, found["spec"]["nodeName"])
        self.falco.send(event)
        return event

    def wait_for_run(self, playbook: str, pod: str) -> dict[str, Any]:
        """Wait until the last step of the playbook's run for the pod is in Loki. Return its audit line."""
        query = f'{{source="tiercel", k8s_pod_name="{pod}"}} |= `"playbook":"{playbook}"`'

        def last() -> dict[str, Any] | None:
            lines = [json.loads(entry.line) for _, entry in self.loki.query(query)]
            return next((line for line in lines if line["action"] == "kubernetes.event"), None)

        found: dict[str, Any] = self.loki.wait_for(last)
        return found

    def selector(self, pod: str) -> str:
        """Return the LogQL query that shows Falco's lines and the audit lines of a pod."""
        return f'{{k8s_ns_name="{self.namespace}", k8s_pod_name="{pod}"}}'

    def policies(self) -> list[dict[str, Any]]:
        """Return the NetworkPolicies of the namespace."""
        return self.admin.list(POLICIES.format(self.namespace))

    def runs(self, playbook: str, pod: str) -> list[str]:
        """Return the ids of the playbook's runs for the pod that are in Loki, oldest first."""
        query = f'{{source="tiercel", k8s_pod_name="{pod}"}} |= `"playbook":"{playbook}"`'
        return list(dict.fromkeys(json.loads(it.line)["run"] for _, it in self.loki.query(query)))

    def tiercel(self, *arguments: str) -> str:
        """Run a command of the command line against this engine. Return what it prints."""
        command = [sys.executable, "-m", "engine", *arguments]
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TIERCEL_SERVER": self.engine.admin,
            "TIERCEL_OPERATOR_TOKEN_FILE": str(self.folder / "operator-token"),
        }
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=READY, check=True
        )
        return done.stdout.strip()


def shipped_playbooks() -> dict[str, bytes]:
    """Return the files of the ConfigMap that playbooks/kustomization.yaml renders."""
    beside = Path(sys.executable).with_name("kubectl")
    kubectl = str(beside) if beside.exists() else "kubectl"
    command = [kubectl, "kustomize", str(FOLDER / "playbooks")]
    text = subprocess.run(command, capture_output=True, check=True, timeout=READY).stdout
    [rendered] = yaml.safe_load_all(text)
    return {name: content.encode() for name, content in rendered["data"].items()}


def alertmanager_config(receiver: str) -> dict[str, Any]:
    """Return prometheus/alertmanager.yaml with the address of the receiver, and without waiting times."""
    config: dict[str, Any] = yaml.safe_load(
        (FOLDER / "prometheus" / "alertmanager.yaml").read_text()
    )
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"][0]["url"] = receiver
    return config


def sample_event(
    sample: str, namespace: str, pod: str, container: str, node: str
) -> dict[str, Any]:
    """Return a sample event of playbooks/events as Falco sends it, for a pod and the current time."""
    text = (ROOT / "playbooks" / "events" / sample).read_text()
    before = json.loads(text)["output_fields"]
    replaced = {"k8s.pod.name": pod, "container.id": container}
    for field, value in replaced.items():
        text = text.replace(before[field], value)
    text = text.replace("k8s_ns_name=demo", f"k8s_ns_name={namespace}")
    event: dict[str, Any] = json.loads(text)
    del event["uuid"]  # Falcosidekick adds it
    now = time.time_ns()
    clock = datetime.fromtimestamp(now // 1_000_000_000, UTC)
    fraction = f"{now % 1_000_000_000:09d}"
    _, _, rest = event["output"].partition(": ")
    event["output"] = f"{clock:%H:%M:%S}.{fraction}: {rest}"
    event["time"] = f"{clock:%Y-%m-%dT%H:%M:%S}.{fraction}Z"
    event["hostname"] = node
    event["output_fields"] |= {"evt.time": now, "k8s.ns.name": namespace}
    return event


def wait_until(look: Callable[[], Any], what: str) -> Any:
    """Return what ``look`` returns as soon as it is true. Raises TimeoutError."""
    pause, deadline = threading.Event(), time.monotonic() + READY
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {READY:.0f} s: {what}")
        pause.wait(0.05)
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tell(loop: SeedLoop, say: Callable[[str], None]) -> None:
    """Replay both detections and an alert, and print what appears at each component."""
    shell, egress, third = loop.pods
    say("\n1. Someone opens a shell in a container\n")
    _detect(loop, SHELL, shell, say)
    found = loop.admin.get(f"/api/v1/namespaces/{loop.namespace}/pods/{shell}")["metadata"]
    _row(say, "API server", f"label security.tiercel.dev/shell={found['labels'][SHELL_LABEL]}")
    _row(
        say,
        "",
        f"annotation {SHELL_LABEL}-command={found['annotations'][f'{SHELL_LABEL}-command']}",
    )
    _messages(loop, shell, say)
    _lines(loop, shell, say)

    say("\n2. A pod connects to a forbidden address\n")
    _detect(loop, EGRESS, egress, say)
    [policy] = loop.policies()
    labels = policy["spec"]["podSelector"]["matchLabels"]
    _row(say, "API server", f"NetworkPolicy {policy['metadata']['name']}")
    _row(say, "", f"selects the pod by {json.dumps(labels)}; egress: {_egress(policy)}")
    _messages(loop, egress, say)
    _lines(loop, egress, say)

    say("\n3. The metrics in Prometheus\n")
    for query, values in (
        ('tiercel_runs_total{outcome="done"}', ["1", "1"]),
        ('falcosecurity_falcosidekick_outputs_total{status="ok"}', ["2", "2", "2"]),
    ):
        for sample in loop.prometheus.wait_for(query, _has(values)):
            labels = {k: v for k, v in sample["metric"].items() if k in ("playbook", "destination")}
            _row(say, query.partition("{")[0], f"{json.dumps(labels)} {sample['value'][1]}")

    say("\n4. More pods connect: the budget of two isolations in ten minutes is spent\n")
    _detect(loop, EGRESS, shell, say)
    loop.detect(EGRESS[0], third)
    held = wait_until(lambda: loop.engine.get("/status")["queue"]["held"], "a step is held")
    _row(say, "engine", f"{held} run is held: {third} is not isolated until a person approves it")
    alert = loop.receiver.wait_for(lambda: loop.receiver.firing().get("TiercelBudgetSpent"))
    _row(say, "Alertmanager", f"{alert['labels']['alertname']} ({alert['labels']['severity']})")
    _row(say, "", alert["annotations"]["summary"])

    say("\n5. A person undoes the first isolation\n")
    run = loop.runs(EGRESS[1], egress)[0]
    _row(say, "tiercel", loop.tiercel("undo", run, "--reason", "false positive"))
    path = f"{POLICIES.format(loop.namespace)}/{policy['metadata']['name']}"
    loop.admin.wait_for(path, lambda it: it is None, READY)
    _row(say, "API server", f"NetworkPolicy {policy['metadata']['name']} is deleted")


SHELL_LABEL = "security.tiercel.dev/shell"
_WIDTH = 90


def _detect(
    loop: SeedLoop, detection: tuple[str, ...], pod: str, say: Callable[[str], None]
) -> None:
    sample, *playbooks = detection
    event = loop.detect(sample, pod)
    _row(say, "Falco", f"{event['priority']}: {event['rule']} in {loop.namespace}/{pod}")
    for one in list(loop.falcosidekick.deliveries)[-3:]:
        _row(say, "Falcosidekick", f"output {one.destination}: {one.status}")
    for playbook in playbooks:
        last = loop.wait_for_run(playbook, pod)
        _row(say, "engine", f"playbook {playbook}, run {last['run'][:12]}")


def _has(values: list[str]) -> Callable[[list[dict[str, Any]]], bool]:
    """Return a test whether samples have these values. A scrape may come between two events."""
    return lambda samples: [sample["value"][1] for sample in samples] == values


def _messages(loop: SeedLoop, pod: str, say: Callable[[str], None]) -> None:
    """Print the messages about a pod. Those of Falcosidekick come first, whichever was faster."""
    texts = [text for text in loop.slack.texts() if pod in text]
    for text in sorted(texts, key=lambda text: not text[0].isdigit()):
        _row(say, "Slack", text)


def _lines(loop: SeedLoop, pod: str, say: Callable[[str], None]) -> None:
    """Print what the selector of the pod finds. Lines of one run stay together; runs overlap in time."""
    query = loop.selector(pod)
    _row(say, "Loki", query)
    audit: dict[str, list[str]] = {}
    for labels, entry in loop.loki.query(query):
        if labels["source"] != "tiercel":
            _row(say, "", f"{labels['source']}: {entry.line}")
            continue
        line = json.loads(entry.line)
        text = f"{line['action']} {line['state']}: {line['message']}"
        audit.setdefault(line["playbook"], []).append(text)
    for playbook in sorted(audit):
        for text in audit[playbook]:
            _row(say, "", f"tiercel: {text}")


def _egress(policy: Mapping[str, Any]) -> str:
    ports = {
        f"{port['protocol']} {port['port']}"
        for rule in policy["spec"].get("egress", [])
        for port in rule.get("ports", [])
    }
    return f"only {', '.join(sorted(ports))}" if ports else "none"


def _row(say: Callable[[str], None], component: str, text: str) -> None:
    short = text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
    say(f"  {component:<14} {short}")


def main() -> None:
    """Run the loop until Ctrl-C, or once."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found: run `make components` as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "control-plane").mkdir()
        _say("Starting etcd, the API server, Prometheus, Alertmanager and the engine …")
        try:
            with (
                ControlPlane(folder / "control-plane") as plane,
                Kubelet(plane.admin),
                SeedLoop(folder, plane) as loop,
            ):
                tell(loop, _say)
                if "--once" not in sys.argv[1:]:
                    _say(_addresses(loop))
                    signal.pause()
        except StartError as error:
            sys.exit(str(error))
        finally:
            _say("\nStopping …")


def _addresses(loop: SeedLoop) -> str:
    admin, token = loop.engine.admin, loop.folder / "operator-token"
    return f"""
Everything keeps running. Ctrl-C stops it and removes its files.

  Prometheus    {loop.prometheus.url}/alerts
  Alertmanager  {loop.alertmanager.url}
  Loki          {loop.loki.url}/loki/api/v1/query_range?query=%7Bsource%3D%22tiercel%22%7D
  engine        {admin}

  export TIERCEL_SERVER={admin} TIERCEL_OPERATOR_TOKEN_FILE={token}
  .venv/bin/tiercel history
  .venv/bin/tiercel undo RUN        removes the NetworkPolicy of a run
  kubectl --kubeconfig {loop.folder}/control-plane/controllers.json get networkpolicies -A"""


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
