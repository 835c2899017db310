"""Blocks of code in Markdown pages, and how they are run."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from forking import zygote
from running import Ended, forked

BLOCK = re.compile(
    r"(?:^\*\(not run by the tests: (?P<reason>.+)\)\*\n\n)?^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code; `reason` says why it is not run."""

    language: str
    code: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    """The blocks of a page in their order."""
    return [Block(**match.groupdict()) for match in BLOCK.finditer(text)]


def run(block: Block, folder: Path) -> Ended:
    """What a block did in `folder`, with a home and a store there; each command is a fork (see forking.py)."""
    own = {
        "HOME": str(folder),
        "LATTE_STORE": str(folder / "store"),
        "PATH": f"{zygote().commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment = os.environ | own
    if block.language == "python":
        return forked("python", "-c", block.code, folder=str(folder), environment=environment)
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, check=False, **pipes)  # type: ignore[call-overload]
    return Ended(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)
