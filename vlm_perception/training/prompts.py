"""Prompts that the nano model was trained on. The parameter files in config/ have the same ones."""

LABEL_PROMPT = "what is ahead?"
WAY_PROMPT = "which way is clear?"
WHERE_PROMPT = "where is the {target}?"
THERE_PROMPT = "is there a {target}?"
DESCRIPTION_PROMPT = "describe the scene"
