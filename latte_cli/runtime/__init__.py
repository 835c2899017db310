"""Running a torch module with the algorithms that were chosen for its layers."""

from typing import Any

from latte_cli.runtime.choices import Binding, Choices, Key, read_choices, write_choices

__all__ = ["Optimization", "Binding", "Choices", "Key", "optimization_of", "optimize", "read_choices", "write_choices"]


def __getattr__(name: str) -> Any:
    """What needs torch, which is imported only then."""
    if name in ("Optimization", "optimization_of", "optimize"):
        from latte_cli.runtime import optimizing

        return getattr(optimizing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
