"""How Sphinx makes these pages: `make docs`."""

import subprocess
import sys
from pathlib import Path

from latte_cli import __version__

project = "LATTE"
author = "the LATTE developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["federation"]
html_theme = "furo"
html_title = f"LATTE {release}"
html_baseurl = ""
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository that are no pages
nitpicky = False
html_show_copyright = False

# The reference of the command line is what typer writes of it.
_COMMANDS = Path(__file__).with_name("reference") / "commands.md"
_done = subprocess.run(
    [
        *(sys.executable, "-m", "typer", "--app", "app", "latte_cli.cli", "utils", "docs"),
        *("--name", "latte", "--title", "Commands"),
    ],
    capture_output=True,
    text=True,
    check=True,
)
if not _COMMANDS.exists() or _COMMANDS.read_text("utf-8") != _done.stdout:
    _COMMANDS.write_text(_done.stdout, "utf-8")
