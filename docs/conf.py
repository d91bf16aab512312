"""Settings of Sphinx: `make docs` makes a site of these pages and of those outside that they link to."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import vlm_perception

project = "vlm_perception"
author = "vlm_perception maintainers"
copyright = "vlm_perception maintainers, Apache-2.0"
version = release = vlm_perception.__version__

# The source is the root of the package, so that links mean the same here and where the repository is read.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "vlm_perception/models/nano/README.md"]
exclude_patterns = [".*", "build", "install", "log", "output", "test"]

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
mermaid_cmd = f"{shlex.quote(sys.executable)} -m mmdr"  # draws when the site is built, so that pages load no script
mermaid_output_format = "svg"

html_theme = "furo"
html_title = f"vlm_perception {version}"
html_static_path = ["static"]
html_css_files = ["diagrams.css"]
