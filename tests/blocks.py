"""Blocks of code in Markdown pages, and how they are run."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"(?:^\*\(not run by the tests: (?P<reason>.+)\)\*\n\n)?^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)
COMMANDS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code; `reason` says why it is not run."""

    language: str
    code: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    """The blocks of a page in their order."""
    return [Block(**match.groupdict()) for match in BLOCK.finditer(text)]


def run(block: Block, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What a block did in `folder`, with a home and a store there."""
    environment = {
        "HOME": str(folder),
        "LATTE_STORE": str(folder / "store"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [*COMMANDS[block.language], block.code],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
