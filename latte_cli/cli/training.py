"""What the commands that learn from the store have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latte_cli.errors import ExitCode, LatteError

if TYPE_CHECKING:
    from latte_cli.store import Store


def learned_from(store: "Store", devices: Sequence[str] | None) -> list[str]:
    """The devices meant, or else those with rows in the store itself; shipped profiles bring their own selectors."""
    from latte_cli.profiles import resolve_profile

    if devices:
        return sorted({resolve_profile(store, device) for device in devices})
    slugs = [info.device.slug for info in store.info().devices if not info.shipped]
    if not slugs:
        raise LatteError(
            f"`{store.uri}` has no profile yet",
            hint="`latte profile --budget 2m` makes one; `--device NAME` learns from one that is shipped",
        )
    return slugs


def models_folder(store: "Store", output: Path | None) -> Path:
    """Where what is learned is kept: `output`, or else beside the store's rows."""
    models = output or store.models_dir
    if models is None:
        raise LatteError(
            f"`{store.uri}` keeps no models", hint="`--output DIR` writes them to a folder", exit_code=ExitCode.USAGE
        )
    return models
