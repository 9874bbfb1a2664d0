"""How the pages of this folder become a site: `tox run -e docs`."""

import re
import tomllib
from importlib.metadata import version as version_of
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.util import logging

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCE = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Source"]

project = "Routilux Core"
author = "The Routilux Core developers"
project_copyright = "the Routilux Core developers"
version = release = version_of("routilux-core")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings say `name`, as the code's comments do

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "Routilux Core"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_copy_source = False
html_show_sphinx = False

# Only `tox run -e docs-links` asks other sites.
linkcheck_ignore = [rf"{re.escape(SOURCE)}.*", r"https?://(127\.0\.0\.1|localhost).*"]
linkcheck_timeout = 20

OUTSIDE = re.compile(r"(?<=\]\()(?:\.\./)+(?!\.\./)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")


def link_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to files that are no page lead to the repository; one to a file that is not there is a warning."""

    def replace(found: re.Match[str]) -> str:
        written = found.group(0).partition("#")[0]
        target = (Path(app.srcdir, page).parent / written).resolve()
        if target.is_relative_to(app.srcdir) and target.exists():
            return found.group(0)
        if not target.exists():
            logging.getLogger(__name__).warning("link to %s, which is not there", written, location=page)
        kind = "tree" if target.is_dir() else "blob"
        return f"{SOURCE}/{kind}/main/{target.relative_to(CHECKOUT).as_posix()}{found.group(2)}"

    source[0] = OUTSIDE.sub(replace, source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", link_outside)
    app.add_lexer("mermaid", TextLexer)  # nothing is loaded from elsewhere to draw it
