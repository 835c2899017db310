"""The options that a command to type next shares with the one that names it, so that both are about one step."""

from typing import TYPE_CHECKING, Any

from latte_cli.cli import console

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest

_OF_THE_STEP = (
    *("device", "strategy", "estimator", "precision", "layout", "threads", "workspace_limit", "memory_limit"),
    *("checkpoint", "batch_axis", "effective_batch", "compare_weights", "optimizer", "loss", "accumulate"),
    *("clip_norm", "ema", "grad_scaler", "zero_grad", "log_every", "freeze", "restore_norms", "cuda_graph"),
    *("allow_unknown", "store"),
)
"""Fields of a request that change the step, whatever its batch and its shapes."""
_OF_A_PROFILE = ("batch_axis", "precision", "layout", "threads", "store")
"""Those that `latte profile` takes as well, and that change what it measures."""


def same_step(request: "EstimateRequest") -> str:
    """The options of `latte estimate` that were typed and change the step, each with a space before it."""
    return _options(request, _OF_THE_STEP)


def same_layers(request: "EstimateRequest") -> str:
    """The options that were typed with which `latte profile` measures what the step needs."""
    return _options(request, _OF_A_PROFILE)


def _options(request: "EstimateRequest", names: tuple[str, ...]) -> str:
    words = []
    for name in names:
        option, value = f"--{name.replace('_', '-')}", getattr(request, name)
        if option in request.given:
            unit = "B" if name.endswith("_limit") else ""
            words += [option] if value is True else [f"{option} {_word(one)}{unit}" for one in _each(value)]
    return "".join(f" {word}" for word in words)


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    return console.shell_word(str(value))
