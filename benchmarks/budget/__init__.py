"""Quality over work."""
