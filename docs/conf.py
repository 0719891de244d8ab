"""The site: `make docs` builds build/docs from the pages where they lie.

The source folder is the repository, so that links among docs/, results/ and the code are the same here and on GitHub.
"""

import re
from pathlib import Path

import racecar

ROOT = Path(__file__).parents[1]

project = "racecar"
copyright = "the racecar-training authors"
version = release = racecar.__version__

root_doc = "docs/index"
include_patterns = ["docs/**", "results/**", "CONTRIBUTING.md", "CHANGELOG.md"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]

smartquotes = False  # L'_m
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests run the notebooks
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # a field called as an attribute of another class is
intersphinx_mapping: dict[str, tuple[str, None]] = {}

html_theme = "furo"
html_title = f"racecar {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]


def front_page(app, docname, source) -> None:
    """Put the README where docs/index.md says so, its links as seen from docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = (
        re.sub(r"\]\((?!https?:|#|docs/)", "](../", text)
        .replace("](docs/", "](")
        .replace("(../results/)", "(tables.md)")
    )
    if docname == root_doc:
        app.env.note_dependency(str(ROOT / "README.md"))  # else a changed README leaves the page as it was
        source[0] = source[0].replace("<!-- README.md -->", text)


def setup(app) -> None:
    """Sphinx calls this."""
    app.connect("source-read", front_page)
