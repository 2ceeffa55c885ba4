"""Setup of the engine's two processes: settings, start, reload and shutdown."""
