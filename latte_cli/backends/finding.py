"""Findings: what `latte doctor` found, from the answers of probes."""

import re
from pathlib import Path

from latte_cli.backends.contract import Finding, State
from latte_cli.backends.probes import Module, Trouble


def module_finding(name: str, answer: object, device: str) -> Finding:
    """Whether a Python package could be imported."""
    if isinstance(answer, Trouble):
        return trouble(name, answer, hint=f"`pip install --force-reinstall {name}`", device=device)
    assert isinstance(answer, Module)
    return ok(name, answer.version, path=answer.path, device=device)


def trouble(subject: str, found: Trouble, *, hint: str = "", device: str = "") -> Finding:
    """What a probe that has no answer says of `subject`."""
    # A library's own hint may send its reader to where he is.
    own = re.sub(r"(; |run )?`latte doctor`.*", "", found.hint)
    state = State.ABSENT if found.missing else State.BROKEN
    return Finding(subject=subject, state=state, text=found.reason, hint=own or hint, device=device)


def ok(subject: str, text: str, *, path: str = "", device: str = "") -> Finding:
    """What there is of `subject`."""
    return Finding(subject=subject, state=State.OK, text=text, path=path, device=device)


def gib(count: int) -> str:
    """A number of bytes as GiB."""
    return f"{count / 2**30:.1f} GiB"


def text_of(file: Path) -> str:
    """What stands in `file`, "" where it cannot be read."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
