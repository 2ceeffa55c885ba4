"""Regenerate a table of ``engine/falco/catalogue/`` from rules files of Falco or its plugins.

python rules/refresh_catalogue.py "falcosecurity/rules 1a2b3c4" engine/falco/catalogue/falco_rules.tsv FILES...
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.falco.catalogue import table
from engine.falco.rules_file import read_rules


def refresh(origin: str, to: Path, files: list[str]) -> int:
    """Write the table of the rules in the files to ``to``; return the number of rules.

    origin: the source of the files, for the first line of the table.
    """
    found = read_rules(files)
    given = {str(Path(file)) for file in files}
    rules = [rule for rule in found.rules.values() if rule.where.file in given]
    to.write_text(table(rules, origin), encoding="utf-8")
    for finding in found.findings:
        sys.stderr.write(f"{finding}\n")
    return len(rules)


if __name__ == "__main__":
    if len(sys.argv) < 4:  # noqa: PLR2004 - the origin, the table, and at least one file
        sys.exit(__doc__)
    count = refresh(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    sys.stdout.write(f"{sys.argv[2]}: {count} rules\n")
