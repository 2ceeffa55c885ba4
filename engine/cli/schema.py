"""tiercel schema."""

from __future__ import annotations

import json

import click

from engine.actions.registry import load_actions
from engine.language.json_schema import schema
from engine.render.text import print_document


@click.command("schema")
def command() -> None:
    """Print the JSON Schema (2020-12) of playbook files, for completion and hover text in editors.

    \b
    Example:
      tiercel schema > tiercel.schema.json
    First line of a playbook file:
      # yaml-language-server: $schema=tiercel.schema.json

    Next: tiercel check playbooks/
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    print_document(json.dumps(schema(load_actions()), indent=2))
