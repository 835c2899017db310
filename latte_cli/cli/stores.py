"""Stores as the commands that read one open them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from latte_cli.cli import console

if TYPE_CHECKING:
    from latte_cli.store import Store


def store_to_read(uri: str | None, warn: Callable[[str], None] = console.warn, *, skip_damaged: bool = True) -> "Store":
    """The store that `--store` names, or the user's; parts that cannot be read are left out, and named.

    Without `skip_damaged`, such a part is an error.
    `warn` takes a message about a store that is named and missing, since shipped profiles answer in its place.
    """
    from latte_cli.store import open_store

    found = open_store(uri, skip=console.left_out if skip_damaged else None)
    if uri and found.missing:
        warn(f"there is no store `{found.uri}`, so only shipped profiles are read; check `--store`")
    return found
