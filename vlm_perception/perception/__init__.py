"""From camera messages to smoothed observations, without ROS."""
