"""The Kubernetes API: the live client, the simulated cluster and what the engine reads from it."""
