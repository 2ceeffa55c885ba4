"""The embedded backend: one SQLite file per engine, which survives a power failure."""
