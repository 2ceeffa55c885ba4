"""What a step can do: one file an action, found by being here."""
