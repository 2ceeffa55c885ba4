"""Keys of the attempt state: what a run keeps from one attempt to the next."""

from __future__ import annotations

RETRIED = "retried"
"""An operator retried the run."""
COPIES = "copies"
"""Copies of the objects that steps of the run deleted."""
NODE = "node"
"""[step, name, uid] of the node that a step works on over several attempts."""
INTERRUPTED = "interrupted"
"""Name of the step that is not repeatable, was interrupted, and was attempted again (``retry.unknown``)."""
