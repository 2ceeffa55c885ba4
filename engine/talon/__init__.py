"""Falco Talon's rules files, read and turned into playbooks."""
