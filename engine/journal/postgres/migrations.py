"""The migrations of the tables and functions, in order."""

from __future__ import annotations

from engine.journal.postgres.functions import FUNCTIONS_1
from engine.journal.postgres.schema import TABLES_1

MIGRATIONS = (TABLES_1 + FUNCTIONS_1,)
"""The statements that migrate each version to the next one, from an empty database."""
