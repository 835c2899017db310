"""The command line: one file per command, each parses, calls and reports."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any

import typer.main

import latte_cli
from latte_cli.cli import console, streams, usage
from latte_cli.cli.advice import with_advice
from latte_cli.cli.commands import COMMANDS, GROUPS
from latte_cli.cli.help import QUIET, VERBOSE, Command, Group
from latte_cli.errors import ExitCode, LatteError
from latte_cli.printable import address

_RESUMED = ("profile", "estimate", "compare", "tune", "simulate")
"""Commands that keep what they measured or ran, and go on from there."""


def _show_version(wanted: bool) -> None:
    if wanted:
        for name, version in _versions():
            typer.echo(f"{name} {version}")
        raise typer.Exit


_NAMED = ("torch", "xgboost", "onnx", "pyarrow", "numpy", "flwr")
"""Libraries whose versions change results, or what can be done."""


def _versions() -> Iterator[tuple[str, str]]:
    """LATTE, Python and the libraries that are installed, with their versions; none is imported."""
    from importlib.metadata import PackageNotFoundError, version

    yield "latte", latte_cli.__version__
    yield "python", ".".join(map(str, sys.version_info[:3]))
    for name in _NAMED:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _latte(
    version: Annotated[
        bool, typer.Option("--version", help="Show the versions and exit.", callback=_show_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help=VERBOSE)] = False,
) -> None:
    console.verbosity(quiet=quiet, verbose=verbose)


def interruptible(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` with Ctrl-C as an error like any other: what typer makes of it differs between its versions."""
    hint = "what was finished is kept; the same command resumes" if name in _RESUMED else None

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise LatteError("interrupted", hint=hint, exit_code=ExitCode.INTERRUPTED) from None

    return run


def _app_with(names: Collection[str]) -> typer.Typer:
    """`latte` with the commands and groups of these names, whose modules it imports."""
    app = typer.Typer(
        name="latte",
        cls=Group,
        help="Estimate how long a training step takes on a device, which algorithms are fastest there, and which "
        "sub-model to train. `latte estimate MODEL.onnx` is a start; `latte zoo export` makes models to try.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_latte)
    for name in (name for name in COMMANDS if name in names):
        app.command(name, cls=Command)(interruptible(name, with_advice(name, COMMANDS[name])))
    for name in (name for name in GROUPS if name in names):
        app.add_typer(_with_advice(name, GROUPS[name]), name=name, cls=Group)
    return app


@cache
def _with_advice(name: str, group: typer.Typer) -> typer.Typer:
    """`group`, which is called `name`, with its commands as those of `latte` are."""
    for info in group.registered_commands:
        info.cls = Command
        if info.callback:
            whole_name = f"{name} {info.name or info.callback.__name__}"
            info.callback = interruptible(whole_name, with_advice(whole_name, info.callback))
    return group


def __getattr__(name: str) -> Any:
    """Build `app`, all of `latte`, on first use."""
    if name == "app":
        return globals().setdefault(name, _app_with((*COMMANDS, *GROUPS)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line and end the process with its exit code (see errors.ExitCode)."""
    streams.prepare()
    try:
        code = _run()
        sys.stdout.flush()
    except LatteError as error:  # what was found cannot be written
        code = _tell(error)
    sys.exit(code)


@cache
def _command(name: str | None = None) -> Callable[..., Any]:
    """The command called `name` within `latte`, or all commands; to put one together takes longer than to parse it."""
    command = typer.main.get_command(_app_with((*COMMANDS, *GROUPS) if name is None else (name,)))
    _leave_reading_to_readers(command)
    return command


def _named_command(words: Sequence[str]) -> str | None:
    """The command that a command line begins with, but for flags; None where it is to be told of others too."""
    first = next((word for word in words if word not in ("-q", "--quiet", "-v", "--verbose")), None)
    return first if first in COMMANDS or first in GROUPS else None


def _leave_reading_to_readers(command: Any) -> None:
    """Leave it to the reader of a file to say that it may not be read: for typer that is a malformed command line."""
    for parameter in command.params:
        if hasattr(parameter.type, "readable"):
            parameter.type.readable = False
    for each in getattr(command, "commands", {}).values():
        _leave_reading_to_readers(each)


def _run() -> int:
    """The exit code of the command; raises LatteError where stdout cannot be written."""
    console.put_advice(str)  # as long as no command runs
    try:
        return int(_command(_named_command(sys.argv[1:]))(standalone_mode=False) or ExitCode.DONE)
    except LatteError as error:
        return _tell(error)
    except _USAGE_ERRORS as error:
        if not usage.is_help(error):
            return _tell(usage.usage_error(error))
        console.usage(error.format_message())
        return int(error.exit_code)
    except MemoryError:
        hint = "close other programs, or raise the limit (`ulimit -v`)"
        return _tell(LatteError("there is not enough memory", hint=hint))
    except (KeyboardInterrupt, typer.Abort):
        return _tell(LatteError("interrupted", exit_code=ExitCode.INTERRUPTED))


_USAGE_ERRORS: Any = next(base for base in reversed(typer.BadParameter.__mro__) if hasattr(base, "show"))


def _tell(error: LatteError) -> int:
    """Say what failed, unless there is nobody to say it to; the exit code."""
    if error.exit_code is not ExitCode.READER_GONE:
        console.error(_hide_secrets(error.message), error.hint and _hide_secrets(error.hint))
    return error.exit_code


def _hide_secrets(text: str) -> str:
    """`text` where it repeats an address of the command line without its secrets, whatever signs they hold."""
    for argument in sys.argv[1:]:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if "://" in value:
            for form in (value, repr(value)[1:-1], str(Path(value))):
                text = text.replace(form, address(value))
    return text
