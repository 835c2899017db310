"""A command as a function of one request: a frozen record whose fields are the command's options."""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import typer

from latte_cli.errors import ExitCode, LatteError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command is asked; each field of a subclass is an option or an argument of the command,
    unless its metadata have `typed` as false.

    `given` are the options that were typed, by their long names.
    """

    given: frozenset[str] = field(default=frozenset(), metadata={"typed": False})


Asked = TypeVar("Asked", bound=Request)


def from_options(command: Callable[[Asked], None]) -> Callable[..., None]:
    """`command` as typer reads it: each field of the request that it takes is a parameter with the same default."""
    (made,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    hints = get_type_hints(made, include_extras=True)

    @wraps(command)
    def run(*, context: typer.Context, **options: Any) -> None:
        command(made(given=_typed_options(context), **options))

    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(made)
        if each.metadata.get("typed", True)
    ]
    typed: Any = run
    typed.__signature__ = inspect.Signature(parameters)
    typed.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _typed_options(context: typer.Context) -> frozenset[str]:
    sources = {
        param: context.get_parameter_source(param.name or "") for param in context.command.params if param.expose_value
    }
    return frozenset(
        max(param.opts, key=len) for param, source in sources.items() if source and source.name == "COMMANDLINE"
    )


def check_apart(given: Collection[str], apart: Sequence[tuple[str, Sequence[str], str]]) -> None:
    """Raise LatteError (exit code 2) where an option is given beside one of others, with the reason that `apart` has.

    So no option is left out of account in silence.
    """
    for first, others, why in apart:
        for other in others:
            if first in given and other in given:
                message = f"`{first}` and `{other}` do not go together: {why}"
                raise LatteError(message, hint="leave one out", exit_code=ExitCode.USAGE)


def check_needed(given: Collection[str], needs: Sequence[tuple[str, str]]) -> None:
    """Raise LatteError (exit code 2) for an option without the one that it `needs`."""
    for option, needed in needs:
        if option in given and needed not in given:
            message = f"`{option}` means nothing without `{needed}`"
            raise LatteError(message, hint=f"add `{needed}`, or leave `{option}` out", exit_code=ExitCode.USAGE)
