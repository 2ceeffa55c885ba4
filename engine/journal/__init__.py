"""The durable store of runs: one protocol, one package per backend."""
