"""The site of these pages: ``sphinx-build -W -b html docs build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from vitsom_fast import __version__

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "vitsom_fast"
copyright = "the vitsom_fast authors, MIT licence"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "repository_links"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["figures", "extensions"]
suppress_warnings = ["config.cache"]  # settings of autodoc hold classes of the package

myst_heading_anchors = 3
smartquotes = False  # the names of choices are in quotation marks
highlight_language = "none"  # an indented block is a formula as often as a command

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Raises (``fit``)", "Raises")]

html_theme = "furo"
html_title = f"vitsom_fast {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
