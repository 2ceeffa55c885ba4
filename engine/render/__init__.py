"""How previews and findings look: as text for people, as JSON for tools."""
