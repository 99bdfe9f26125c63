"""How the site is built: `make docs` writes it to docs/_build/html and treats every warning as an error.

Why Sphinx with MyST: guides stay Markdown that reads well on any code host, and the references come out of the code
itself: commands from click (sphinx-click), the Python API from docstrings (autodoc), YAML keys and registries from
their own tables (`_ext/generated.py`). Builders for Markdown alone need a plug-in of our own for each of these.
Nothing is loaded from a network: the theme brings its scripts along, and pictures are files of this repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "cli"), str(ROOT / "docs" / "_ext")]

from graft.version import __version__  # noqa: E402

project = "skillgraft"
author = "the skillgraft authors"
copyright = author
release = version = __version__
language = "en"
highlight_language = "none"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings have Google's sections
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "pages",  # docs/_ext: files from elsewhere in the repository as pages, drawings within the page
    "generated",  # docs/_ext: references read from the code
    "plain_text",  # docs/_ext: docstrings and help texts made safe in reStructuredText
]
exclude_patterns = ["_build"]

# Markdown
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3  # [text](page.md#a-heading) is checked like any other link
suppress_warnings = ["myst.header"]  # a page may begin at the second level

# Python API
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "literal"  # `name` in a docstring is code

# Looks
html_theme = "furo"
html_title = f"skillgraft {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
