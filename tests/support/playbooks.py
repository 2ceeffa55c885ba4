"""The compiler and the loader of playbooks, with all actions of the engine."""

from __future__ import annotations

import functools

from engine.actions.registry import load_actions
from engine.language import compile as language
from engine.language.loader import Loader

playbook_from_snapshot = functools.partial(language.playbook_from_snapshot, actions=load_actions())


def new_loader(inspect=None):
    return Loader(load_actions(), inspect)
