"""The commands of `vlm_perception <command>`."""
