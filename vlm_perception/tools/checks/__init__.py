"""The checks of `vlm_perception doctor`. Each is a function that returns its findings."""
