"""The actions of this package fulfil the contract of Tiercel's actions."""

from tiercel.testing import ActionContract


class TestContract(ActionContract):
    """Every test of the suite, for each action."""

    actions = ("evidence.record",)
