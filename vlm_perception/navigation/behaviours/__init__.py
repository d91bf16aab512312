"""What to do next: idle, search, follow, explore. One behaviour a module."""
