"""Engine events and their subscribers: log, audit, metrics and traces."""
