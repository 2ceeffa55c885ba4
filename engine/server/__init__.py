"""The HTTP server: connections, messages, authentication and the admin API."""
