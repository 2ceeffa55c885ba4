"""The engine with the rendered environment of its Deployment, a database with TLS, and the minimum of rights."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli

from tests.cluster.keys import make_keys
from tests.kustomize import test_buffered
from tests.kustomize.test_kustomize import pod_spec, with_components
from tests.kustomize.test_run import TOKEN, mount, variables
from tests.support.engine import engine, wait_until
from tests.support.postgres import ENGINE, database_of, shared_server, unavailable
from tests.support.replicas import KUBECONFIG, PLAYBOOKS, Receiver, alert

PASSWORD, ROTATED = "ENGINE-PASSWORD", "ROTATED-ENGINE-PASSWORD"
"""The first one is in the SQL of docs/replicas.md."""
MOUNTED = "etc/tiercel/journal"


@pytest.fixture
def database(tmp_path):
    """The port and the name of a database that requires TLS, and the certificate authority."""
    keys, server = tmp_path / "keys", shared_server()
    keys.mkdir()
    make_keys(keys)
    name = database_of(tmp_path / "database").rpartition("/")[2]
    with server.requiring_tls(keys, name):
        yield f"{server.port}/{name}", keys / "ca.crt"
    with server.connect() as admin:
        admin.execute(f"ALTER ROLE {ENGINE} PASSWORD '{PASSWORD}'")


def migrate(url, password_file):
    given = ["--journal", url, "--journal-password-file", str(password_file)]
    return CliRunner().invoke(cli, ["journal", "migrate", *given])


def test_a_database_that_is_not_the_right_one_is_refused_without_the_password(database, tmp_path):
    place, authority = database
    password, wrong, other = (tmp_path / name for name in ("password", "wrong", "other"))
    password.write_text(PASSWORD + "\n")
    wrong.write_text("WRONG-PASSWORD")
    other.mkdir()
    make_keys(other)
    address = f"postgresql://{ENGINE}@127.0.0.1:{place}?sslmode=verify-full&sslrootcert="
    assert migrate(f"{address}{authority}", password).exit_code == 0
    named = address.replace("127.0.0.1", "localhost") + f"{authority}&hostaddr=127.0.0.1"
    plain = f"postgresql://{ENGINE}@127.0.0.1:{place}?sslmode=disable"
    for url, file, why in (
        (f"{address}{other / 'ca.crt'}", password, "certificate verify failed"),
        (named, password, 'does not match host name "localhost"'),
        (f"{address}{authority}", wrong, "password authentication failed"),
        (plain, password, "pg_hba.conf rejects connection"),
    ):
        result = migrate(url, file)
        assert (result.exit_code, why in result.output) == (2, True), result.output
        assert "PASSWORD" not in result.output
        assert result.output.count("\n") == 1


def test_the_engine_runs_with_the_environment_and_mounts_of_its_deployment(
    database, tmp_path, monkeypatch
):
    place, authority = database
    root, receiver = tmp_path / "root", Receiver()
    url = f"postgresql://{ENGINE}@127.0.0.1:{place}?sslmode=verify-full&sslrootcert={root / MOUNTED / 'ca.crt'}"
    monkeypatch.setitem(test_buffered.SECRETS, ("tiercel-journal", "address"), url)
    secret = {"password": PASSWORD.encode(), "ca.crt": authority.read_bytes()}
    files = {
        "tiercel-tokens": {"tokens": TOKEN.encode()},
        "tiercel-journal": secret,
        "tiercel-playbooks": {"a.yaml": (PLAYBOOKS % (receiver.url, receiver.url)).encode()},
    }
    manifests = with_components(tmp_path / "it", "enforce", "replicas", "replicas/spool")
    mounts = mount(manifests, root, files, "Deployment")
    [container] = pod_spec(manifests, "Deployment")["containers"]
    assert f"/{MOUNTED}" in [it["mountPath"] for it in container["volumeMounts"]]
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    host = receiver.url.removeprefix("http://").rstrip("/")
    flags = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--http-hosts", host)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with engine(tmp_path, root, *flags, env=variables(manifests, root, "Deployment")) as running:
        (run,) = running.post(alert("Tell"), headers=headers)[2]["runs"]
        receiver.wait_for(run)
        _uses_tls(place)
        _rotate(place, mounts["journal"], secret)
        event = alert("Tell", 1)
        wait_until(lambda: running.post(event, headers=headers)[0] == 202)
        (run,) = running.post(event, headers=headers)[2]["runs"]  # a duplicate has the same run
        receiver.wait_for(run)
        with unavailable(f"/{place.partition('/')[2]}"):
            code, _, answer = running.post(alert("Tell", 2), headers=headers)
            assert (code, (root / "var/lib/tiercel/spool.db").exists()) == (202, True)
            running.kill()  # a crash, after which the container starts again with its volume
        running.restart()
        receiver.wait_for(*answer["runs"])
        for pid in running.pids:
            for name in ("cmdline", "environ"):
                assert b"ENGINE-PASSWORD" not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert "ENGINE-PASSWORD" not in f"{running.log} {running.audit}"
    receiver.close()


def _uses_tls(place):
    with shared_server().connect() as admin:
        rows = admin.execute(
            "SELECT ssl, usename FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE datname = %s",
            (place.rpartition("/")[2],),
        ).fetchall()
    assert set(rows) == {(True, ENGINE)}


def _rotate(place, mounted, secret):
    """Change the password, and cut the connections that used the old one."""
    with shared_server().connect() as admin:
        admin.execute(f"ALTER ROLE {ENGINE} PASSWORD '{ROTATED}'")
        mounted.write({**secret, "password": ROTATED.encode()})
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (place.rpartition("/")[2],),
        )
    address = f"host=127.0.0.1 port={place.partition('/')[0]} dbname={place.rpartition('/')[2]}"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"{address} user={ENGINE} password={PASSWORD} sslmode=require")
