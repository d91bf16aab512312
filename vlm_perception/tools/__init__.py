"""The commands behind `vlm_perception <command>`."""
