"""The command ``tiercel``."""

from engine.cli.command_group import main

__all__ = ["main"]
