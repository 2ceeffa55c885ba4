"""Conversion of Falco Talon's rules files into playbooks."""
