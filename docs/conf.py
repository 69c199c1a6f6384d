"""The documentation site: ``make docs``, or ``sphinx-build -W docs build/site``. Nothing is fetched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from supermask import __version__

project = "supermask"
author = "The supermask developers"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "supermask_site"]
root_doc = "index"
exclude_patterns = ["_ext", "search.md"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Class variables", "params_style")]
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

nitpicky = True

html_theme = "furo"
html_title = "supermask"
html_static_path = ["_static"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
templates_path: list[str] = []
