"""Typed questions about the newest camera frame, and robots that act on the answers."""

from pkgutil import extend_path

# The generated messages (vlm_perception.msg, ...) are installed under the same name:
# this lets a source checkout and the installed interfaces be one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
