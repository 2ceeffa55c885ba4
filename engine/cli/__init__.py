"""The command ``tiercel``."""

from engine.cli.command import main

__all__ = ["main"]
