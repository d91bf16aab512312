"""A MuJoCo room, a differential-drive robot with a camera, and its ground truth."""
