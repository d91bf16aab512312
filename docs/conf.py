"""Settings of Sphinx: `make docs` makes a site of these pages."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import vlm_perception

project = "vlm_perception"
author = "vlm_perception maintainers"
copyright = "vlm_perception maintainers, Apache-2.0"  # noqa: A001 - Sphinx wants this name
version = release = vlm_perception.__version__

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = f"vlm_perception {version}"
