"""components/buffered: real Redis and NATS with the rendered arguments, in front of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

import nats
import pytest
import redis
from nats.js.errors import NotFoundError
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.kustomize.test_kustomize import pod_spec, with_components
from tests.support.components import Server, have
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK, alert

SECRETS = {
    ("tiercel-redis", "password"): "0f" * 32,
    ("tiercel-nats", "token"): "1e" * 32,
    ("tiercel-sender", "token"): "2d" * 32,
}
SUBJECT = "falco.notice.terminal_shell_in_container"  # Falcosidekick's default subject template


def expanded(value, variables):
    """Expand $(NAME) as the kubelet does: a name that is not defined yet stays as it is."""
    return re.sub(r"\$\((\w+)\)", lambda it: variables.get(it[1], it[0]), value)


def environment(manifests, kind, name):
    """Return the environment that the kubelet gives the container: the variables in their order."""
    [container] = pod_spec(manifests, kind, name)["containers"]
    found = {}
    for one in container["env"]:
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            found[one["name"]] = SECRETS[reference["name"], reference["key"]]
        elif "value" in one:
            found[one["name"]] = expanded(one["value"], found)
    return found


class Buffer(Server):
    """The server of a component, with the arguments that are rendered. Only address and folder differ."""

    def __init__(self, folder, manifests, name, program, *address):
        super().__init__(folder)
        [container] = pod_spec(manifests, "StatefulSet", name)["containers"]
        env = environment(manifests, "StatefulSet", name)
        given = [expanded(it, env).replace("/data", str(folder)) for it in container["args"]]
        given = [it for it in given if it != program]
        [port] = container["ports"]
        self.name, self.address = name, f"{name}:{port['containerPort']}"
        self._command = [have(program), *given, *address, str(self.port)]

    def command(self):
        return self._command

    def here(self, url):
        """Replace the address of the Service by that of this server."""
        assert self.address in url
        return url.replace(self.address, f"127.0.0.1:{self.port}")


@pytest.fixture
def start(tmp_path):
    """A function that starts the server of a component."""
    servers = []

    def run(*arguments):
        (tmp_path / "data").mkdir()
        servers.append(Buffer(tmp_path / "data", *arguments))
        servers[-1].start()
        return servers[-1]

    yield run
    for one in servers:
        one.stop()


def is_run(line):
    return line.get("playbook") == "mark-shell"


def test_redis_keeps_the_events_of_falcosidekick_while_the_engine_is_down(tmp_path, start):
    manifests = with_components(tmp_path / "all", "falcosidekick", "buffered")
    server = start(manifests, "tiercel-redis", "redis-server", "--bind", "127.0.0.1", "--port")
    sidekick = environment(manifests, "Deployment", "falcosidekick")
    assert "WEBHOOK_ADDRESS" not in sidekick
    assert sidekick["REDIS_STORAGETYPE"] == "list"
    host, _, port = server.here(sidekick["REDIS_ADDRESS"]).partition(":")

    def push(number, password=sidekick["REDIS_PASSWORD"]):
        with redis.Redis(host, int(port), password=password, retry=Retry(NoBackoff(), 0)) as client:
            client.rpush(sidekick["REDIS_KEY"], json.dumps(alert(number)))

    with pytest.raises(redis.exceptions.AuthenticationError):
        push(0, password=None)
    url = environment(manifests, "StatefulSet", "tiercel")["TIERCEL_REDIS"]
    files, env = {"a.yaml": PLAYBOOK}, {"TIERCEL_REDIS": server.here(url)}
    push(1)
    server.stop()  # a power failure of Redis, which has confirmed the event
    server.start()
    with engine(tmp_path, files, "--dry-run", env=env) as running:
        running.wait_for_audit(is_run)


def test_jetstream_keeps_the_events_of_falcosidekick_while_the_engine_is_down(tmp_path, start):
    manifests = with_components(tmp_path / "all", "falcosidekick", "buffered/jetstream")
    server = start(manifests, "tiercel-nats", "nats-server", "-a", "127.0.0.1", "-p")
    sidekick = environment(manifests, "Deployment", "falcosidekick")
    assert "WEBHOOK_ADDRESS" not in sidekick

    async def publish(number):
        client = await nats.connect(server.here(sidekick["NATS_HOSTPORT"]))
        while True:  # the engine creates the stream
            with contextlib.suppress(NotFoundError):
                await client.jetstream().find_stream_name_by_subject(SUBJECT)
                break
            await asyncio.sleep(0.05)
        await client.publish(SUBJECT, json.dumps(alert(number)).encode())
        await client.close()

    url = environment(manifests, "StatefulSet", "tiercel")["TIERCEL_NATS"]
    files, env = {"a.yaml": PLAYBOOK}, {"TIERCEL_NATS": server.here(url)}
    with engine(tmp_path, files, "--dry-run", env=env) as running:
        asyncio.run(publish(1))
        running.wait_for_audit(is_run)
        running.terminate()
        asyncio.run(publish(2))
        running.restart()
        running.wait_for_audit(is_run)


def test_falcosidekick_sends_its_token_to_the_service_of_the_engine(tmp_path):
    plain = with_components(tmp_path / "plain", "falcosidekick")
    sidekick = environment(plain, "Deployment", "falcosidekick")
    assert sidekick["WEBHOOK_ADDRESS"] == "http://tiercel:8080/events"
    assert sidekick["WEBHOOK_CUSTOMHEADERS"] == f"Authorization:Bearer {'2d' * 32}"
    secure = with_components(tmp_path / "secure", "falcosidekick", "mtls")
    sidekick = environment(secure, "Deployment", "falcosidekick")
    assert sidekick["WEBHOOK_ADDRESS"] == "https://tiercel:8080/events"
    assert sidekick["WEBHOOK_MUTUALTLS"] == "true"


def test_each_variable_that_another_uses_is_defined_before_it(tmp_path):
    components = ("falcosidekick", "mtls", "buffered", "buffered/jetstream", "monitoring", "slack")
    manifests = with_components(tmp_path / "all", *components)
    for kind, name in (
        ("StatefulSet", "tiercel"), ("Deployment", "falcosidekick"),
        ("StatefulSet", "tiercel-redis"), ("StatefulSet", "tiercel-nats"),
    ):  # fmt: skip
        assert "$(" not in str(environment(manifests, kind, name))
