"""tiercel schema."""

from __future__ import annotations

import json

import click

from engine.actions.registry import load_actions
from engine.language.json_schema import schema
from engine.render.text import echo


@click.command("schema")
def command() -> None:
    """Print the JSON Schema (2020-12) of playbook files, for completion and hover in editors.

    \b
      tiercel schema > tiercel.schema.json
      # yaml-language-server: $schema=tiercel.schema.json
    """  # noqa: D301 - \b is click's mark for text to be left alone
    echo(json.dumps(schema(load_actions()), indent=2))
