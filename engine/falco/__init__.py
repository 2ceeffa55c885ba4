"""Falco's own rules: what their events say, and which playbooks wait for what never comes."""
