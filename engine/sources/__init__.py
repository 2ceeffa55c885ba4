"""Event sources. Each one gives request bodies to the same intake."""
