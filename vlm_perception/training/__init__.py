"""How the shipped nano model was made."""
