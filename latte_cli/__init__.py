"""LATTE: how long a training step takes on a device, which algorithms to run, which sub-model to train.

It imports nothing until a name is asked of it: `__main__`, which catches interrupts of a command, comes after it.
"""

_HOMES = {
    "LatteError": "latte_cli.errors",
    "estimate": "latte_cli.estimator",
    "load": "latte_cli.network",
    "optimization_of": "latte_cli.runtime",
    "optimize": "latte_cli.runtime",
}

__all__ = ["LatteError", "__version__", "estimate", "load", "optimization_of", "optimize"]


def __getattr__(name: str) -> object:
    """A name of the public API, from its module, which is imported only then."""
    if name == "__version__":
        return globals().setdefault(name, _version())
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES[name]), name)
    return found


def _version() -> str:
    """The installed version; to ask costs 30 ms, so that a command which does not print it should not import it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("latte-cli")
    except PackageNotFoundError:
        return "0+unknown"
