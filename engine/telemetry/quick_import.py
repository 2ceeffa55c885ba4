"""The import of structlog without rich, which takes 0.1 s of each start.

structlog loads rich for the tracebacks of its development mode. The log has plain tracebacks.
"""

from __future__ import annotations

import importlib
import sys


def import_structlog() -> None:
    """Import structlog. An import of rich fails meanwhile, and works again afterwards."""
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]  # None makes an import fail
    rich = modules.get("rich")
    modules["rich"] = None
    try:
        importlib.import_module("structlog")
    finally:
        del modules["rich"]
        if rich is not None:
            modules["rich"] = rich
