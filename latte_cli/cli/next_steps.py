"""The options that a command to type next shares with the one that names it, so that both are about one step."""

import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from latte_cli.cli import console
from latte_cli.cli.mixtures import is_mixed, shape_options

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.estimator import Estimate

_OF_THE_STEP = (
    *("device", "strategy", "estimator", "precision", "layout", "threads", "workspace_limit", "memory_limit"),
    *("checkpoint", "batch_axis", "effective_batch", "compare_weights", "optimizer", "loss", "accumulate"),
    *("clip_norm", "ema", "grad_scaler", "zero_grad", "log_every", "freeze", "restore_norms", "cuda_graph"),
    *("allow_unknown", "store"),
)
"""Fields of a request that change the step, whatever its batch and its shapes."""
_PLACE = re.compile(r"--suite network FILE|\bMODEL\b")
_NAMING_A_MODEL = re.compile(rf"`latte (?P<command>[a-z-]+ [^`]*?(?:{_PLACE.pattern})[^`]*)`")
_OF_A_PROFILE = ("batch_axis", "precision", "layout", "threads", "store")
"""Those that `latte profile` takes as well, and that change what it measures."""


def same_step(request: "EstimateRequest") -> str:
    """The options of `latte estimate` that were typed and change the step, each with a space before it."""
    return _joined(_options(request, _OF_THE_STEP))


def same_layers(request: "EstimateRequest") -> str:
    """The options that were typed with which `latte profile` measures what the step needs."""
    return _joined(_options(request, _OF_A_PROFILE))


def name_model(request: "EstimateRequest") -> None:
    """Let the commands in hints and warnings name the request's model where they would say `MODEL`."""
    console.add_advice(partial(_with_model, request))


def _with_model(request: "EstimateRequest", text: str) -> str:
    """`text` whose commands can be pasted: with the model, and `latte profile` with what its layers depend on."""

    def pasted(found: re.Match[str]) -> str:
        words = found["command"]
        if words.startswith("profile "):
            words += _of_layers(request, words)
        return f"`latte {_PLACE.sub(lambda _: request.pasted_model, words)}`"

    return _NAMING_A_MODEL.sub(pasted, text)


def at_device(text: str, estimate: "Estimate") -> str:
    """`text`, whose `latte profile` has to run on the device of `estimate`, where that is not this machine."""
    from latte_cli.profiles import spec_here

    command = "; `latte profile "
    if command not in text or spec_here(estimate.device, estimate.settings.threads):
        return text
    return text.replace(command, f"; on that device {command[2:]}")


def _of_layers(request: "EstimateRequest", words: str) -> str:
    """The options of `latte profile` for the layers of a request's model, but those that `words` have."""
    batch = [f"--batch-size {request.batch}"] if request.batch else []
    shapes = [] if is_mixed(request.shape) else shape_options(request.shape or ())
    options = [*batch, *shapes, *_options(request, _OF_A_PROFILE)]
    return _joined(option for option in options if option.partition(" ")[0] not in words)


def _joined(options: Iterable[str]) -> str:
    return "".join(f" {option}" for option in options)


def _options(request: "EstimateRequest", names: tuple[str, ...]) -> list[str]:
    words = []
    for name in names:
        option, value = f"--{name.replace('_', '-')}", getattr(request, name)
        if option in request.given:
            unit = "B" if name.endswith("_limit") else ""
            words += [option] if value is True else [f"{option} {_word(one)}{unit}" for one in _each(value)]
    return words


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    return console.shell_word(str(value))
