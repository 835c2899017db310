"""Measuring on this machine on behalf of a command that needs a few more rows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from latte_cli import __version__
from latte_cli.cli import console
from latte_cli.errors import LatteError

if TYPE_CHECKING:
    from latte_cli.backends import Device
    from latte_cli.store import Store
    from latte_cli.tasks import Settings, Task
    from latte_cli.worker import Opening

_MOST_GPUS = 16


def measure_here(store: "Store", device: "Device", tasks: Sequence["Task"], label: str) -> None:
    """Time `tasks` on the profiled `device`, and keep the rows; raises LatteError where it is not this machine's."""
    from latte_cli.sweep import timed
    from latte_cli.worker import Worker

    with Worker(opening(device, tasks[0].settings)) as worker:
        if worker.device.slug != device.slug:
            raise _elsewhere(device)
        with store.writer(worker.device) as writer, console.progress(label, len(tasks)) as bar:
            timed(worker, tasks, writer, origin=f"latte {__version__} estimate", progress=bar.advance)


def opening(device: "Device", settings: "Settings") -> "Opening":
    """How to open `device`, if it is one of this machine's; raises LatteError where it is not."""
    from latte_cli.worker import Opening

    for spec, slug in _own(device.kind, settings.threads):
        if slug and (device.slug == slug or device.slug.endswith("-" + slug)):
            return Opening(
                device=spec,
                threads=settings.threads if spec == "cpu" else None,
                name=device.slug.removesuffix(slug).rstrip("-") or None,
                precisions=(settings.precision,),
                layouts=(settings.layout,),
            )
    raise _elsewhere(device)


def _own(kind: str, threads: int) -> Iterator[tuple[str, str | None]]:
    """This machine's devices of a kind and their names in the store."""
    from latte_cli.backends import cpu_slug, gpu_slug

    if kind == "cuda":
        yield from ((f"cuda:{index}", gpu_slug(index)) for index in range(_MOST_GPUS))
    else:
        yield "cpu", cpu_slug(threads)


def _elsewhere(device: "Device") -> LatteError:
    return LatteError(
        f"`{device.slug}` is not this machine, so nothing of it can be measured here", hint="run it there"
    )
