"""A pytest plugin: the contract suite for actions, on a real API server.

In a conftest.py: ``pytest_plugins = ["tiercel.testing"]``. In a test module:

    from tiercel.testing import ActionContract

    class TestMyActions(ActionContract):
        actions = ["my.action"]

Run it against a cluster that only tests use: ``pytest --tiercel-kubeconfig FILE``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tiercel.testing.contract")

from tiercel.testing.contract import ActionContract, Case, Contract, Scene  # noqa: E402 - after the rewrite
from tiercel.testing.server import ContractServer, KilledError, Traffic  # noqa: E402 - the same
from tiercel.testing.world import World  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ActionContract",
    "Case",
    "Contract",
    "ContractServer",
    "KilledError",
    "Scene",
    "Traffic",
    "World",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select the cluster."""
    group = parser.getgroup("tiercel", "contract suite of Tiercel actions")
    group.addoption(
        "--tiercel-kubeconfig", metavar="FILE", help="kubeconfig of a cluster that only tests use"
    )
    group.addoption("--tiercel-context", metavar="NAME", help="context in the kubeconfig")


@pytest.fixture(scope="session")
def tiercel_server(request: pytest.FixtureRequest) -> Iterator[ContractServer]:
    """The API server of the contract suite. A conftest can replace this fixture."""
    kubeconfig = request.config.getoption("--tiercel-kubeconfig")
    if not kubeconfig:
        pytest.skip("give a cluster that only tests use: --tiercel-kubeconfig FILE")
    server = ContractServer(kubeconfig, request.config.getoption("--tiercel-context"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiercel_world(tiercel_server: ContractServer) -> Iterator[World]:
    """The namespace and the node of the contract suite."""
    world = World(tiercel_server)
    yield world
    world.close()


@pytest.fixture(scope="class")
def contract(request: pytest.FixtureRequest, tiercel_world: World) -> Contract:
    """A case of the contract suite."""
    return Contract(request.param, tiercel_world)
