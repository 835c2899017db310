"""Pictures of what people see: a report and two pages of the documentation at three widths, and the terminal.

`python tests/pictures.py FOLDER` (`make pictures`) writes them as PNG, light and dark, to be looked at; the pages of
the documentation are those in build/docs. It ends with 1 where a page scrolls sideways or has text that is too faint.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browser import CHROMIUM, WIDTHS, chromium, faint_texts, wider_than_the_screen
from forking import zygote
from running import forked
from terminal import on_terminal

ROOT = Path(__file__).parents[1]
DOCS = ("index.html", "how-to/reading-an-estimate.html")
DEVICE = ("--batch-size", "8", "--device", "reference")


def main() -> int:
    if CHROMIUM is None:
        sys.stderr.write("error: there is no browser\nhint: `apt-get install chromium`\n")
        return 1
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder, chromium() as running:
        for name, page in _pages(Path(folder)):
            for scheme in ("light", "dark"):
                for width in WIDTHS:
                    found = _shoot(running, page, width, scheme, out / f"{name}-{width}-{scheme}.png")
                    faults += [f"{name}, {width} pixels, {scheme}: {fault}" for fault in found]
    zygote().end()
    print("\n".join(faults) or f"wrote {len([*out.iterdir()])} pictures into `{out}`: look at them")  # noqa: T201
    return 1 if faults else 0


def _pages(folder: Path) -> Iterator[tuple[str, Path]]:
    """What is shown, by the name of its pictures."""
    os.environ["LATTE_STORE"] = str(folder / "store")
    model = folder / "resnet18.onnx"
    forked("latte", "zoo", "export", "resnet18", str(model))
    forked("latte", "report", str(model), "-o", str(folder / "report.html"), *DEVICE)
    yield "report", folder / "report.html"
    yield "terminal", _terminal(folder / "terminal.html", model)
    for page in DOCS:
        path = ROOT / "build" / "docs" / page
        if not path.exists():
            raise SystemExit(f"error: `{path}` is not there\nhint: `make docs`")
        yield f"docs-{path.stem}", path


def _terminal(path: Path, model: Path) -> Path:
    """A page with what `latte estimate` shows on a terminal of 80 columns and 24 lines."""
    from io import StringIO

    from rich.console import Console
    from rich.text import Text

    raw = on_terminal("estimate", model, *DEVICE).raw
    console = Console(record=True, width=80, file=StringIO())
    console.print(Text.from_ansi(raw.replace("\r\n", "\n")))
    dark = "@media (prefers-color-scheme: dark){body{background:#111!important;color:#ddd!important}}"
    style = f"<meta name=viewport content='width=device-width'><style>body{{overflow-x:auto;margin:1em}}{dark}</style>"
    path.write_text(console.export_html().replace("<head>", f"<head>{style}"), "utf-8")
    return path


def _shoot(running: Any, page: Path, width: int, scheme: str, out: Path) -> list[str]:
    """Write a picture of a page; what is wrong with it."""
    context = running.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.screenshot(path=out, full_page=True)
    found = [] if page.name == "terminal.html" else [*wider_than_the_screen(tab), *faint_texts(tab)]
    context.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
