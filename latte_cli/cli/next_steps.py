"""The options that a command to type next shares with the one that names it, so that both are about one step."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from latte_cli.cli import console
from latte_cli.cli.mixtures import is_mixed, shape_options
from latte_cli.cli.pasting import batch_options, name_model

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
_PROFILE = "; `latte profile "
_OF_A_PROFILE = ("batch_axis", "precision", "layout", "threads", "store")
"""Those that `latte profile` takes as well, and that change what it measures."""


def same_step(request: "EstimateRequest") -> str:
    """The options of `latte estimate` that were typed and change the step, each with a space before it."""
    return _join_words(_options(request, _OF_THE_STEP))


def same_layers(request: "EstimateRequest") -> str:
    """The options that were typed with which `latte profile` measures what the step needs."""
    return _join_words(_options(request, _OF_A_PROFILE))


def name_layers(request: "EstimateRequest") -> None:
    """Let hints and warnings name the model, and `latte profile` with what the times of its layers depend on."""
    shapes = [] if is_mixed(request.shape) else shape_options(request.shape or ())
    sizes = [*batch_options(request.batch_size), *shapes]
    options = {
        "profile": [*sizes, *_options(request, _OF_A_PROFILE)],
        "estimate": [*sizes, *_options(request, _OF_THE_STEP)],
    }
    name_model(request.pasted_model, options)


def at_device(text: str, estimate: "Estimate") -> str:
    """`text`, whose `latte profile` has to run on the device of `estimate`, where that is not this machine."""
    from latte_cli.profiles import spec_here

    if _PROFILE not in text or spec_here(estimate.device, estimate.settings.threads):
        return text
    return on_that_device(text)


def on_that_device(text: str) -> str:
    """`text`, whose `latte profile` has to run on another machine."""
    return text.replace(_PROFILE, f"; on that device {_PROFILE[2:]}")


def _join_words(options: Iterable[str]) -> str:
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
