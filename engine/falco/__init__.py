"""Falco's rules files, and the check of playbooks against the rules and fields that Falco has."""
