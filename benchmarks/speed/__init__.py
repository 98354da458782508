"""Time and memory of sampling."""
