"""The command ``tiercel``: one module per subcommand."""

from engine.cli.command_group import main

__all__ = ["main"]
