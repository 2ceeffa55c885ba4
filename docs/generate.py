"""Generate the parts of docs/ that describe the code. A test checks that they are current.

docs/actions.md, docs/actions/ and docs/metrics.md are generated completely. On other pages, the text between
``<!-- made by docs/generate.py: NAME -->`` and ``<!-- end -->`` is generated.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml
from engine.actions.registry import load_actions
from engine.cli.command_group import cli
from engine.language import duration
from engine.language.schema import API_VERSION, KINDS, MATCH, METADATA, STEP
from engine.language.template import RUN_WORDS, WORDS
from engine.model.playbook import Guardrails
from engine.outbound.notification_services import MODULES
from engine.render.reference import action_rows, key_rows, operator_rows

from docs import actions_reference, metrics_reference, response_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
WIDTH = 100
_REGION = re.compile(r"(<!-- made by docs/generate\.py: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Return each page that is generated, completely or in part, with its current text."""
    found = {HERE / "actions.md": actions_reference.index(), **actions_reference.pages()}
    found[HERE / "metrics.md"] = metrics_reference.page()
    for page in sorted(HERE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page not in found and _REGION.search(text):
            found[page] = _REGION.sub(
                lambda region: f"{region[1]}\n{_made(region[2])}\n{region[3]}", text
            )
    return found


def _made(name: str) -> str:
    """Return the text of a region, with a trailing newline. Raises KeyError if there is no such region."""
    return "".join(f"{line.rstrip()}\n" for line in REGIONS[name]())


def _words() -> Iterator[str]:
    yield ", ".join(f"`%{word}`" for word in (*WORDS, *RUN_WORDS))


def _notification_services() -> Iterator[str]:
    """Yield the services of notify.send: the name of the module in Apprise, with the schemes of its URLs."""
    schemes: dict[str, list[str]] = {}
    for scheme, module in MODULES.items():
        schemes.setdefault(module, []).append(scheme)
    yield "| service | URLs begin with |"
    yield "|---|---|"
    for module, found in sorted(schemes.items()):
        yield f"| {module.replace('_', ' ')} | {', '.join(f'`{scheme}://`' for scheme in found)} |"


def _floor() -> Iterator[str]:
    """Yield the built-in guardrails as a document."""
    floor = Guardrails()
    budgets = []
    for budget in floor.budgets:
        one = {"effect": budget.effect, "limit": budget.limit, "per": duration.text(budget.per)}
        then = {"onExceeded": budget.on_exceeded} if budget.on_exceeded else {}
        budgets.append({**one, "scope": budget.scope, **then})
    protected = {"namespaces": list(floor.namespaces), "labels": dict(floor.labels)}
    spec = {
        "protected": {**protected, "trustPodsIn": list(floor.trust_pods_in)},
        "budgets": budgets,
        "maxEventAge": duration.text(floor.max_event_age),
        "onExceeded": floor.on_exceeded,
        "holdFor": duration.text(floor.hold_for),
    }
    head = {"apiVersion": API_VERSION, "kind": "Guardrails", "metadata": {"name": "default"}}
    text = yaml.safe_dump(
        {**head, "spec": spec}, sort_keys=False, default_flow_style=None, width=WIDTH
    )
    yield from ("```yaml", *text.splitlines(), "```")


def _commands(group: click.Group = cli, before: str = "tiercel") -> Iterator[str]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before} {name}")
        elif command is not None:
            settings = {
                **command.context_settings,
                "terminal_width": WIDTH,
                "max_content_width": WIDTH,
            }
            context = click.Context(command, info_name=f"{before} {name}", **settings)
            context.help_option_names = ["-h", "--help"]
            yield from (f"### {before} {name}", "", "```text")
            yield from (*command.get_help(context).splitlines(), "```", "")


REGIONS: dict[str, Callable[[], Iterator[str]]] = {
    **{kind: partial(key_rows, key.keys) for kind, key in KINDS.items()},
    "metadata": partial(key_rows, METADATA.keys),
    "match": partial(key_rows, MATCH.keys),
    "step": partial(key_rows, STEP.keys),
    "operators": operator_rows,
    "actions": lambda: action_rows(load_actions().values()),
    "words": _words,
    "floor": _floor,
    "notification-services": _notification_services,
    "commands": _commands,
    "library": response_library.matrix,
    "no-action": response_library.reasons,
}

if __name__ == "__main__":
    made = pages()
    for page in actions_reference.FOLDER.glob("*.md"):
        if page not in made:  # the action was removed
            page.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(HERE.parent)}\n")
