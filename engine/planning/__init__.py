"""The pure core: which playbooks match an event, and which runs they start."""
