"""From answers to motion, as pure functions, without ROS."""
