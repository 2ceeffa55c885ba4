"""The contract suite of Tiercel."""

pytest_plugins = ["tiercel.testing"]
