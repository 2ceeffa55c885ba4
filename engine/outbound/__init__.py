"""HTTP requests to servers other than the API server."""
