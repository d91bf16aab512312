"""ROS nodes: plumbing between topics and the pure rooms, and nothing else."""
