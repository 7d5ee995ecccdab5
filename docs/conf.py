"""Sphinx's settings: `make docs`."""

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "examples")]
os.environ.setdefault("MPLBACKEND", "agg")

import torch  # noqa: E402

import funcattr  # noqa: E402

torch.set_num_threads(1)
warnings.filterwarnings("error", module="funcattr")

project = "funcattr"
version = release = funcattr.__version__
html_title = f"funcattr {version}"
copyright = "the authors of funcattr"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["examples", "tutorials", "gallery/*.py", "gallery/*.ipynb", "gallery/*.zip"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 0,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib",),
    "capture_repr": ("_repr_html_",),
    "default_thumb_file": str(HERE / "img" / "overview.jpg"),
}
suppress_warnings = ["config.cache"]

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "navigation_with_keys": False,
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "header_links_before_dropdown": 7,
    "logo": {"text": "funcattr"},
}
html_sidebars = {page: [] for page in ("index", "changelog", "reference", "what_they_show")}
html_show_sourcelink = False
html_copy_source = False
