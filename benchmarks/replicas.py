"""Measures the journal on PostgreSQL: accept, claims, fail-over, and that unmatched events do not touch it.

    python benchmarks/replicas.py [--runs 10000] [--rounds 3] [--kills 30] [--promotions 10] [--only PART …]

The server is Debian's PostgreSQL with a synchronous standby, both on the disk of this machine. Each replica is a
process. Accept writes one run for each event of 1.5 KB, with 1, 16 and 64 batches in flight for each replica.
Two bare clients write the ids and the events of the same runs into a table of two columns, by ``INSERT … SELECT
unnest(…)`` through the same client library and with the same settings:

- ``bare_in_flight``: as many events are in flight, and a writer thread inserts all that arrive during a commit.
  This is what an accept does besides its decisions and its other tables.
- ``bare_loop``: one thread inserts rows that are encoded in advance, as many per commit as the journal wrote.
  Nobody waits for the result of a row.

The three alternate within each round; a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import PLAYBOOK, ROOT, alert, percentile, report
from tests.support.engine import engine
from tests.support.postgres import Postgres, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_FLIGHT = (1, 16, 64)
REPLICAS = (1, 2, 4)
LIMIT = 16
"""Claims in one call: the default number of workers."""
STATISTICS = 2.0
"""Seconds after which the statistics of PostgreSQL contain what a connection has written."""
DISK = Path(tempfile.gettempdir())
"""Not in memory, so that each commit is synced to a disk."""
NO_CLUSTER = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
}
"""The events of these measurements cause no call to a cluster."""
PARTS = ("accept", "claims", "replica_kills", "promotions", "unmatched")
_databases = itertools.count(1)


class Child:
    """A process of benchmarks/journal_process.py."""

    def __init__(self, role: str, **given: Any) -> None:
        script = Path(__file__).with_name("journal_process.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), role, json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout

    def wait_until_ready(self) -> None:
        """Wait until the process has prepared its work."""
        assert self.output.readline() == "ready\n"

    def start(self) -> None:
        """Let the process work."""
        self.input.write("go\n")
        self.input.flush()

    def read(self) -> Any:
        """Return the next line, decoded."""
        return json.loads(self.output.readline())


def together(children: list[Child]) -> list[dict[str, Any]]:
    """Start the children at the same time, and return their figures."""
    for child in children:
        child.wait_until_ready()
    for child in children:
        child.start()
    figures = [child.read() for child in children]
    for child in children:
        assert child.process.wait() == 0
    return figures


def rate(figures: list[dict[str, Any]]) -> float:
    """Return the runs per second of processes that worked at the same time."""
    return sum(one["runs"] for one in figures) / max(one["seconds"] for one in figures)


@contextlib.contextmanager
def database(server: Postgres) -> Iterator[str]:
    """Create an empty database, and return its URL."""
    name = f"benchmark_{next(_databases)}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield server.dsn(name)
    finally:
        with server.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def accept_round(server: Postgres, replicas: int, number: int, runs: int) -> dict[str, float]:
    """Return the rows per second of the journal and of both bare clients, and the runs in a commit."""
    given: dict[str, Any] = {"runs": runs // replicas, "in_flight": number}
    rates = {}
    for role in ("accept", "bare_in_flight", "bare_loop"):
        with database(server) as dsn:
            if role != "accept":
                with server.connect(dsn.rpartition("/")[2]) as connection:
                    connection.execute(
                        "CREATE TABLE bare (id text PRIMARY KEY, body bytea NOT NULL)"
                    )
            names = [f"replica-{number}" for number in range(replicas)]
            found = together([Child(role, dsn=dsn, name=name, **given) for name in names])
        rates[role] = rate(found)
        if role == "accept":
            size = sum(one["runs"] for one in found) / sum(one["transactions"] for one in found)
            rates["size"], given["size"] = size, round(size)
    return rates


def measure_accept(server: Postgres, runs: int, rounds: int) -> dict[str, Any]:
    rows = []
    for replicas, number in itertools.product(REPLICAS, IN_FLIGHT):
        count = runs if number > 1 else runs // 5
        found = [accept_round(server, replicas, number, count) for _ in range(rounds)]

        def median(of: str, to: str = "", found: Any = found) -> float:
            return statistics.median(one[of] / (one[to] if to else 1) for one in found)

        rows.append({
            "replicas": replicas,
            "in_flight": number,
            "runs_per_commit": round(median("size"), 1),
            "runs_per_s": round(median("accept")),
            "bare_in_flight_per_s": round(median("bare_in_flight")),
            "bare_loop_per_s": round(median("bare_loop")),
            "ratio": round(median("accept", "bare_in_flight"), 2),
            "ratio_to_loop": round(median("accept", "bare_loop"), 2),
        })  # fmt: skip
    alone = {row["in_flight"]: row["runs_per_s"] for row in rows if row["replicas"] == 1}
    for row in rows:
        row["to_one_replica"] = round(row["runs_per_s"] / alone[row["in_flight"]], 2)
    return {"accept": rows}


def measure_claims(server: Postgres, runs: int, rounds: int) -> dict[str, Any]:
    """Return the claims per second, alone and each with the settlement of its run."""
    rows = []
    for replicas, settle in itertools.product(REPLICAS, (False, True)):
        rates = []
        for _ in range(rounds):
            with database(server) as dsn:
                count = runs if settle else 1_000
                together([Child("accept", dsn=dsn, name="first", runs=count, in_flight=64)])
                each = [
                    Child("claim", dsn=dsn, name=f"replica-{n}", limit=LIMIT, settle=settle)
                    for n in range(replicas)
                ]
                found = together(each)
                assert sum(one["runs"] for one in found) == count, (found, count)
                rates.append(rate(found))
        rows.append(
            {
                "replicas": replicas,
                "settled": settle,
                "claims_per_s": round(statistics.median(rates)),
            }
        )
    return {"claims": rows}


def measure_replica_kills(server: Postgres, kills: int) -> dict[str, Any]:
    """Kill replicas that hold a claim. Return the time until another replica claims their runs."""
    with database(server) as dsn:
        victims = [Child("hold", dsn=dsn, name=f"victim-{n}", number=n) for n in range(kills)]
        held = [victim.read() for victim in victims]
        for victim in victims:
            victim.wait_until_ready()
        other = Child("take_over", dsn=dsn, name="other", runs=kills)
        other.wait_until_ready()
        other.start()
        killed: dict[str, float] = {}

        def kill() -> None:
            for run, victim in zip(held, victims, strict=True):
                time.sleep(0.17)  # at different moments between two renewals of the liveness rows
                killed[run] = time.monotonic()
                victim.process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        claimed = dict(other.read() for _ in victims)
        killer.join()
        for child in (*victims, other):
            child.process.wait()
    times = [claimed[run] - since for run, since in killed.items()]
    return {"replica_killed": seconds(times)}


def measure_promotions(promotions: int) -> dict[str, Any]:
    """Kill the primary and promote the standby. Return the time from the kill until the next commit."""
    times = []
    for _ in range(promotions):
        primary, standby = pair(scratch(DISK))
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        writer = Child(
            "commit", dsn=f"postgresql://postgres@{hosts}/postgres", name="a", runs=100_000
        )
        writer.wait_until_ready()
        writer.start()
        for _ in range(50):
            writer.read()
        killed = time.monotonic()
        primary.kill()
        standby.promote()
        promoted = time.monotonic()
        while (committed := writer.read()) < promoted:
            pass
        times.append(committed - killed)
        writer.process.kill()
        standby.kill()
    return {"primary_killed": seconds(times)}


def measure_unmatched(server: Postgres, folder: Path, events: int) -> dict[str, Any]:
    """Post events that match no playbook: with the database, and while it is away."""
    (place := folder / "engine").mkdir()
    (kubeconfig := place / "kubeconfig.json").write_text(json.dumps(NO_CLUSTER))
    with (
        database(server) as dsn,
        engine(
            place, {"mark.yaml": PLAYBOOK}, "--journal", dsn, "--kubeconfig", str(kubeconfig)
        ) as running,
    ):
        body = [alert(number, "Other") for number in range(100)]
        time.sleep(STATISTICS)
        began, before = time.monotonic(), rows_written(server, dsn)
        for _ in range(events // 100):
            assert running.post(body)[0] == 200
        time.sleep(STATISTICS)
        wait, after = time.monotonic() - began, rows_written(server, dsn)
        time.sleep(wait)
        idle = rows_written(server, dsn) - after
        server.kill()
        away = {running.post(body)[0] for _ in range(10)}
        matched = running.post(alert(0))[0]
        server.start()
    return {
        "unmatched": {
            "events": events,
            "rows_written_meanwhile": after - before,
            "rows_written_by_an_idle_engine": idle,
            "answers_without_database": sorted(away),
            "answer_to_a_matched_event_without_database": matched,
        }
    }


def rows_written(server: Postgres, dsn: str) -> int:
    """Return the rows that were written into the tables of runs, events, ids and windows."""
    with server.connect(dsn.rpartition("/")[2]) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables"
            " WHERE relname <> 'replicas'"
        ).fetchone()
    assert row
    return int(row[0])


def seconds(times: list[float]) -> dict[str, Any]:
    return {
        "times": len(times),
        "p50_s": round(percentile(times, 0.5), 2),
        "p99_s": round(percentile(times, 0.99), 2),
    }


def pair(folder: Path) -> tuple[Postgres, Postgres]:
    """Start a primary and a synchronous standby."""
    primary = Postgres.primary(folder)
    primary.start()
    return primary, primary.standby(folder)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="runs of a measurement")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of which the median counts"
    )
    parser.add_argument("--kills", type=int, default=30, help="replicas to kill")
    parser.add_argument("--promotions", type=int, default=10, help="primaries to kill")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="parts to measure")
    return parser.parse_args()


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    primary, standby = pair(folder)
    parts = {
        "accept": lambda: measure_accept(primary, given.runs, given.rounds),
        "claims": lambda: measure_claims(primary, given.runs, given.rounds),
        "replica_kills": lambda: measure_replica_kills(primary, given.kills),
        "unmatched": lambda: measure_unmatched(primary, folder, given.runs),
        "promotions": lambda: measure_promotions(given.promotions),
    }
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        if name in given.only:
            figures |= part()
    standby.kill()
    primary.kill()
    return figures


if __name__ == "__main__":
    report("replicas", measure(arguments(), scratch(DISK)))
