"""What the commands that allocate price with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from latte_cli.cli import console

if TYPE_CHECKING:
    from latte_cli.allocator import Pricer
    from latte_cli.estimator import Estimator
    from latte_cli.fleet import FleetClass


def pricer_of(
    model: Path, store: str | None, strategy: str, optimizer: str, sizes: Mapping[str, int], allow_unknown: bool
) -> "Pricer":
    """Prices sub-models of a model file by the profiles in a store, the memory of each class as its limit."""
    from latte_cli.allocator import Pricer
    from latte_cli.estimator import Estimator, Limits
    from latte_cli.network import load
    from latte_cli.profiles import profile
    from latte_cli.store import open_store

    opened = open_store(store)

    def estimator(each: "FleetClass") -> "Estimator":
        slug = profile(opened, each.device, each.threads)
        return Estimator(
            opened,
            slug,
            precision=each.precision,
            layout=each.layout,
            threads=each.threads,
            strategy=each.strategy or strategy,
            limits=Limits(memory_bytes=each.memory_bytes or opened.device(slug).memory_bytes),
            note=console.note,
        )

    return Pricer(
        lambda batch: load(model, batch_size=batch, sizes=sizes, allow_unknown=allow_unknown),
        estimator,
        optimizer=optimizer,
        allow_unknown=allow_unknown,
    )
