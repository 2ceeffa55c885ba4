"""The journal in PostgreSQL, which several replicas of the engine share."""
