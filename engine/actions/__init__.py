"""What a step can do: one file for each action, which the registry finds by the name of the module."""
