"""Models that answer typed questions about images."""
