"""What commands say on stderr: errors, warnings, notes and progress."""

import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from latte_cli.errors import LatteError
from latte_cli.printable import printable, without_middle

_SCREENFUL = 100  # chosen: more lines than a terminal has


@dataclass
class _Verbosity:
    quiet: bool = False
    verbose: bool = False
    advice: Callable[[str], str] = str
    model: Callable[[str], str] = str
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_SCREENFUL))


_verbosity = _Verbosity()


def verbosity(*, quiet: bool, verbose: bool) -> None:
    """Set how much is said for the rest of the process."""
    _verbosity.quiet, _verbosity.verbose = quiet, verbose


def add_verbosity(*, quiet: bool = False, verbose: bool = False) -> None:
    """Say less, or more, for the rest of the process, whatever was set before."""
    verbosity(quiet=_verbosity.quiet or quiet, verbose=_verbosity.verbose or verbose)


def put_advice(words: Callable[[str], str]) -> None:
    """Set how advice is put for the rest of the process: hints, and warnings, which end in an action."""
    _verbosity.advice = words


def put_model(words: Callable[[str], str]) -> None:
    """Set how the commands in advice name the model for the rest of the process."""
    _verbosity.model = words


def advice(text: str) -> str:
    """`text` in the words of the command that runs, and of what installed LATTE."""
    return with_installer(_verbosity.model(_verbosity.advice(text)), Path(sys.prefix))


def with_installer(text: str, environment: Path) -> str:
    """`text` with `pip install` as the command that installs into `environment`.

    In the environments of `pipx` and of `uv tool`, the `pip` of a shell installs elsewhere.
    """
    if "`pip install" not in text:
        return text
    if (environment / "pipx_metadata.json").exists():
        return text.replace("`pip install", f"`pipx runpip {environment.name} install")
    if (environment / "uv-receipt.toml").exists():
        return text.replace("`pip install", f"`uv pip install --python {shell_word(environment)}")
    return text


def error(message: str, hint: str | None = None) -> None:
    """One line for what failed and one for what to do."""
    _say(f"error: {message}")
    if hint:
        _say(f"hint: {advice(hint)}")


def warn(message: str, *, urgent: bool = False) -> None:
    """A doubt about the result; shown unless quiet, and even then if it is `urgent`."""
    if urgent or not _verbosity.quiet:
        _say(f"warning: {advice(message)}")


def left_out(error: LatteError) -> None:
    """Warn of what cannot be read, where the rest can."""
    warn(f"left out: {error.message}; {error.hint}")


def note(message: str) -> None:
    """What happened, or the command to type next; shown unless quiet."""
    if not _verbosity.quiet:
        _say(message)


def detail(message: str) -> None:
    """Shown only with `--verbose`."""
    if _verbosity.verbose:
        _say(message)


def on_terminal() -> bool:
    """Whether stderr is a terminal, where somebody sees how far a command is."""
    return sys.stderr.isatty()


def lines_above() -> tuple[str, ...]:
    """What was said so far to a terminal, so that a table fits below."""
    return tuple(_verbosity.said) if on_terminal() else ()


def shell_word(word: object) -> str:
    """A word of a command to type next, such as a path, quoted for a shell where necessary."""
    return shlex.quote(str(word))


def usage(message: str) -> None:
    """The help that a group of commands shows where it is typed by itself: lines of typer's making."""
    for line in message.splitlines():
        _say(line)


def _say(line: str) -> None:
    """Write a line after the results so far; raises LatteError where those cannot be written."""
    sys.stdout.flush()
    line = without_middle(printable(line))
    _verbosity.said.append(line)
    sys.stderr.write(f"{line}\n")


class ProgressBar(Protocol):
    """A progress bar, or nothing where there is no terminal."""

    def advance(self, done: float, label: str = "") -> None:
        """Show that `done` of the total is done."""


class _Silent:
    def advance(self, done: float, label: str = "") -> None:
        return


@contextmanager
def progress(title: str, total: float | None, *, budget_s: float | None = None) -> Iterator[ProgressBar]:
    """A bar on stderr with rate and time left (None: of no known end); nothing unless stderr is a terminal.

    Where a budget ends before the tasks do, the bar and the time left are those of the budget.
    """
    if _verbosity.quiet or not on_terminal():
        yield _Silent()
        return
    from rich.console import Console

    from latte_cli.cli.progress import fit_texts, progress_of

    screen = Console(stderr=True)

    class _Bar:
        def advance(self, done: float, label: str = "") -> None:
            speed = bar.tasks[0].speed
            title_, label_ = fit_texts(printable(title), printable(label), total, screen.width)
            rate = f"{speed:.1f}/s" if speed else ""
            bar.update(task, completed=done, description=title_, label=label_, rate=rate)

    with progress_of(screen, total, budget_s) as bar:
        task = bar.add_task(fit_texts(printable(title), "", total, screen.width)[0], total=total, label="", rate="")
        yield _Bar()
