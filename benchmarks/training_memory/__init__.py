"""Memory of a fine-tuning step."""
