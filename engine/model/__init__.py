"""The shared nouns: events, playbooks, runs, calls and errors. Imports no other package of the engine."""
