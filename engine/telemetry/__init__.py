"""What the engine tells the outside: log, audit, metrics and traces."""
