"""The batches of `latte estimate`, and the memory that a step has to fit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from latte_cli.errors import ExitCode, LatteError
from latte_cli.quantities import size_bytes

if TYPE_CHECKING:
    from latte_cli.devices import Device

DEVICE, LARGEST = "device", "max"


@dataclass(frozen=True, kw_only=True)
class Room:
    """The memory that a process may take; None for all that the device has."""

    limit_bytes: int | None = None

    def on(self, device: "Device") -> int:
        """The bytes on a device; raises LatteError where its profile does not tell."""
        found = device.memory_bytes if self.limit_bytes is None else self.limit_bytes
        if found is None:
            message = f"the profile of `{device.slug}` does not say how much memory it has"
            raise LatteError(message, hint="give it, as in `8GiB`", exit_code=ExitCode.USAGE)
        return found


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batch sizes, and the `room` of the largest one that is to be found beside them."""

    sizes: tuple[int, ...] = ()
    room: Room | None = None

    @property
    def single(self) -> bool:
        """Whether there is one batch only."""
        return len(self.sizes) + (self.room is not None) == 1


def parse_room(text: str) -> Room:
    """`8GiB`, or `device` for all its memory; raises LatteError (exit code 2) for anything else."""
    if text.strip() == DEVICE:
        return Room()
    try:
        return Room(limit_bytes=size_bytes(text))
    except LatteError as exc:
        raise LatteError(exc.message, hint=f"{exc.hint}; or `{DEVICE}`", exit_code=exc.exit_code) from exc


def parse_batches(text: str) -> Batches:
    """`8`, `8,16,32`, `max` or `max:8GiB`; raises LatteError (exit code 2) for anything else."""
    sizes: dict[int, None] = {}
    rooms: list[Room] = []
    for part in map(str.strip, text.split(",")):
        word, colon, limit = part.partition(":")
        if word == LARGEST:
            rooms.append(parse_room(limit) if colon else Room())
        elif part.isdecimal() and int(part):
            sizes[int(part)] = None
        else:
            shown = " ".join(part.split())[:40]
            hint = "as in `--batch-size 8`, `8,16,32`, `max` or `max:8GiB`"
            raise LatteError(f"`{shown}` is not a batch size", hint=hint, exit_code=ExitCode.USAGE)
    if len(rooms) > 1:
        raise LatteError("`max` is there twice", hint="give it once", exit_code=ExitCode.USAGE)
    return Batches(sizes=tuple(sorted(sizes)), room=rooms[0] if rooms else None)
