"""The spool: accepted runs on this disk, for the time when a shared journal is unavailable."""
