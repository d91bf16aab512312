"""For development without ROS; everything is said in setup.cfg."""

from setuptools import setup

setup()
