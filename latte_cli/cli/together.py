"""Which options of `latte estimate` do not go together, and why."""

from typing import TYPE_CHECKING

from latte_cli.cli.mixtures import shape_options
from latte_cli.cli.request import check_apart
from latte_cli.errors import ExitCode, LatteError

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest

_OF_MEMORY = (
    *("--workspace-limit", "--memory-limit", "--checkpoint", "--memory", "--fits", "--effective-batch"),
    "--mmap-threshold",
)
_OF_THE_FILE = ("--freeze", "--restore-norms")
"""Options that make another network of a file, which `latte profile` does not run."""
_APART = (
    ("--compile", _OF_MEMORY, "the memory of a compiled step is not known"),
    ("--compile", ("--measure-below",), "a compiled model takes PyTorch's own algorithms"),
    ("--compile", ("--measure",), "a compiled step is run whole: `latte profile MODEL --compile` does that"),
    ("--measure", ("--no-measure",), "the one asks for what the other rules out"),
    ("--compile", ("--cuda-graph", "--gpus"), "compiled steps are known of CPUs only"),
)
"""Options that do not go together, and why."""


def check_together(request: "EstimateRequest") -> None:
    """Raise LatteError (exit code 2) for options that do not go together, and for what a compiled step has not."""
    check_apart(request.given, _APART)
    if request.compiled:
        _check_compiled(request)


def _check_compiled(request: "EstimateRequest") -> None:
    """Raise LatteError (exit code 2) for what is not known of a compiled step."""
    if request.batch_size and (request.several or request.batch is None):
        message = "several batch sizes, or the largest, are not known of compiled steps"
        raise LatteError(message, hint="`--compile` with one `--batch-size`", exit_code=ExitCode.USAGE)
    if any(one.quantity == "memory" for one in request.fail_above or ()):
        message = "the memory of a compiled step is not known"
        raise LatteError(message, hint="leave out `--fail-above memory`", exit_code=ExitCode.USAGE)


def measuring_compiled(request: "EstimateRequest") -> str:
    """The command that measures the compiled step of the request, as a hint."""
    if other := [option for option in _OF_THE_FILE if option in request.given]:
        names = " and ".join(f"`{option}`" for option in other)
        return f"models are run compiled as their files have them: leave out {names}"
    words = ["latte profile", request.pasted_model, "--compile"]
    words += [f"--batch-size {request.batch}"] if request.batch else []
    words += shape_options(request.shape or ())
    words += [f"--precision {request.precision}"] if "--precision" in request.given else []
    words += [f"--layout {request.layout}"] if "--layout" in request.given else []
    return f"`{' '.join(words)}` measures it on that device"
