"""Artifacts: where the bytes of logs, captures and commands go, and how they get there."""
