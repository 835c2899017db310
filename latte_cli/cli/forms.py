"""Which options of `latte estimate` each form of its output shows: others are refused instead of ignored."""

from typing import TYPE_CHECKING

from latte_cli.cli.thresholds import EstimateFormat
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report.thresholds import Annotate

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest

_SCHEDULE = ("--samples", "--epochs", "--local-steps", "--upload", "--download", "--loading-rate")
_UNSHOWN = {
    "--format csv": (*_SCHEDULE, "--baseline", "--all"),
    "--format json": ("--all",),
    "--format trace": (*_SCHEDULE, "--prices", "--baseline", "--gpus", "--memory", "--all"),
    "--format markdown": ("--gpus", "--memory", "--all"),
    "--annotate junit": (*_SCHEDULE, "--prices", "--baseline", "--gpus", "--memory", "--all"),
}
"""Options whose result a form does not show."""

_HELD = dict.fromkeys(_SCHEDULE, ("epoch", "round")) | {"--gpus": ("memory",)}
"""The quantities that an option changes, so that it matters where one of them has a limit."""


def check_shown(request: "EstimateRequest") -> None:
    """Raise LatteError (exit code 2) for an option that changes nothing of what is written or checked."""
    if request.every and request.ranked:
        message = "`--all` lists layers, and a ranking has a line for each device"
        raise LatteError(message, hint="leave `--all` out, or name one `--device`", exit_code=ExitCode.USAGE)
    form = "--annotate junit" if request.annotate is Annotate.JUNIT else f"--format {request.form}"
    for option in _UNSHOWN.get(form, ()):
        if option in request.given and not _is_held(request, option):
            verb = "needs no" if _is_complete(request, option) else "does not show"
            message = f"`{form}` {verb} `{option}`"
            raise LatteError(message, hint=_hint(request, option), exit_code=ExitCode.USAGE)


def _is_complete(request: "EstimateRequest", option: str) -> bool:
    """Whether the form has what the option asks for anyway."""
    return option == "--all" and request.form in (EstimateFormat.CSV, EstimateFormat.JSON, EstimateFormat.TRACE)


def _is_held(request: "EstimateRequest", option: str) -> bool:
    """Whether the end of the command depends on the option, or a ranking shows it."""
    if option == "--baseline":
        return request.max_regression is not None
    if option in _SCHEDULE and request.ranked and request.form is EstimateFormat.CSV:
        return True  # a ranking is of trainings in every form
    limited = {limit.quantity for limit in request.fail_above or ()}
    return not limited.isdisjoint(_HELD.get(option, ()))


def _hint(request: "EstimateRequest", option: str) -> str:
    if _is_complete(request, option):
        return "leave `--all` out: every layer is there"
    ways = {"--baseline": "add `--max-regression 5%`", "--gpus": "add `--fail-above memory=8GiB`"}
    way = ways.get(option, "add `--fail-above epoch=1h`" if option in _SCHEDULE else "")
    other = "leave `--annotate` out" if request.form is EstimateFormat.TABLE else "take another `--format`"
    return f"{way}, or {other}" if way and request.form is not EstimateFormat.TRACE else other
