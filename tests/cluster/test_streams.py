"""Logs and commands through the real API server, whose kubelet is a stand-in with the real protocols."""

from __future__ import annotations

import itertools
import threading

import pytest
from engine.cluster.api import EXEC
from engine.cluster.client import connect
from engine.cluster.execution import LogRequest
from engine.model.calls import Call
from engine.model.errors import GoneError, PermanentError, TemporaryError

from tests.cluster.fixtures import require

PODS = "/api/v1/namespaces/{}/pods"


@pytest.fixture(scope="module")
def cluster(control_plane, tmp_path_factory):
    require("kubelet")
    file = tmp_path_factory.mktemp("streams") / "kubeconfig"
    return connect(str(control_plane.kubeconfig(control_plane.admin_token, file)), None)


@pytest.fixture(scope="module")
def logs(control_plane):
    return control_plane.folder / "kubelet"


@pytest.fixture(scope="module")
def pod(admin):
    """The namespace and the name of a running pod with the container ``web``."""
    namespace = "streams"
    admin.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    spec = {"containers": [{"name": "web", "image": "nginx"}]}
    admin.create(PODS.format(namespace), {"metadata": {"name": "web-0"}, "spec": spec})
    admin.wait_for(f"{PODS.format(namespace)}/web-0", lambda it: it["status"]["phase"] == "Running")
    yield namespace, "web-0"
    admin.delete(f"/api/v1/namespaces/{namespace}")


def run(cluster, pod, *command, container="web"):
    body = {"command": list(command), "container": container}
    return cluster.execute(Call("create", "v1", EXEC, *pod, body))


def test_the_output_and_the_exit_code_of_a_command(cluster, pod):
    output = run(cluster, pod, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert sorted(b"".join(output).splitlines()) == [b"err", b"out"]
    assert output.exit_code == 3
    output = run(cluster, pod, "true")
    assert (b"".join(output), output.exit_code) == (b"", 0)


def test_an_argument_is_never_a_part_of_a_shell_command(cluster, pod):
    argument = "a b;$(id) '\"\n%20&container=other\u202e"
    assert b"".join(run(cluster, pod, "printf", "%s", argument)) == argument.encode()


def test_a_large_output_arrives_in_pieces(cluster, pod):
    size = 3_000_000
    pieces = list(run(cluster, pod, "head", "-c", str(size), "/dev/zero"))
    assert sum(map(len, pieces)) == size
    assert max(map(len, pieces)) < size / 10


def test_reading_may_stop_in_the_middle_of_an_endless_output(cluster, pod):
    output = run(cluster, pod, "cat", "/dev/zero")
    assert len(next(iter(output))) > 0
    output.close()


def test_a_command_that_hangs_ends_at_the_deadline(cluster, pod):
    output = run(cluster.with_timeout(1.0), pod, "sleep", "60")
    with pytest.raises(PermanentError, match=r"did not end within the timeout .* may still run"):
        list(output)


def test_a_program_that_does_not_exist_is_an_error(cluster, pod):
    with pytest.raises(PermanentError, match=r"was not run: .*no-such-program"):
        list(run(cluster, pod, "no-such-program"))


def test_a_container_or_a_pod_that_does_not_exist(cluster, pod):
    with pytest.raises(PermanentError, match="container nope is not valid for pod web-0"):
        run(cluster, pod, "true", container="nope")
    with pytest.raises(GoneError):
        run(cluster, (pod[0], "nope"), "true")
    with pytest.raises(PermanentError, match="nope"):
        cluster.read_log(LogRequest(*pod, "nope"))
    with pytest.raises(GoneError):
        cluster.read_log(LogRequest(pod[0], "nope", "web"))


def test_the_last_lines_of_a_log(cluster, pod, logs):
    (logs / f"{'_'.join(pod)}_web.log").write_text("".join(f"{n}\n" for n in range(1000)))
    assert b"".join(cluster.read_log(LogRequest(*pod, "web", {"tailLines": "2"}))) == b"998\n999\n"
    assert b"".join(cluster.read_log(LogRequest(*pod, "web", {"limitBytes": "3"}))) == b"0\n1"


def test_a_log_that_is_followed_ends_at_the_deadline(cluster, pod):
    output = cluster.with_timeout(1.0).read_log(LogRequest(*pod, "web", {"follow": "true"}))
    with pytest.raises(TemporaryError, match="the log did not end within the timeout"):
        list(output)


def test_an_endless_log_arrives_in_pieces(cluster, pod, logs):
    log = logs / f"{'_'.join(pod)}_web.previous.log"
    log.symlink_to("/dev/zero")
    output = cluster.read_log(LogRequest(*pod, "web", {"previous": "true", "tailLines": "10"}))
    pieces = list(itertools.islice(output, 20))
    output.close()
    assert {len(piece) <= 1 << 20 for piece in pieces} == {True}


def test_a_dry_run_opens_no_stream(cluster, pod):
    output = run(cluster.with_dry_run(), pod, "touch", "should-not-exist")
    assert (list(output), output.exit_code) == ([], 0)


def test_streams_leave_no_thread_and_no_failure_behind(cluster, pod):
    before = threading.active_count()
    list(run(cluster, pod, "true"))
    assert threading.active_count() == before
    assert not cluster.breaker.open
