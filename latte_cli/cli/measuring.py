"""Measuring on this machine on behalf of a command that needs a few more rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import latte_cli
from latte_cli.cli import console
from latte_cli.errors import LatteError

if TYPE_CHECKING:
    from latte_cli.devices import Device
    from latte_cli.store import Store
    from latte_cli.tasks import Settings, Task
    from latte_cli.worker import Opening


def measure_here(store: "Store", device: "Device", tasks: Sequence["Task"], label: str) -> None:
    """Time `tasks` on the profiled `device`, and keep the rows; raises LatteError where it is not this machine's."""
    from latte_cli.sweep import time_tasks
    from latte_cli.worker import Worker

    with Worker(opening_of(device, tasks[0].settings)) as worker:
        if worker.device.slug != device.slug:
            raise _elsewhere(device)
        with store.writer(worker.device) as writer, console.progress(label, len(tasks)) as bar:
            time_tasks(worker, tasks, writer, origin=f"latte {latte_cli.__version__} estimate", progress=bar.advance)


def opening_of(device: "Device", settings: "Settings") -> "Opening":
    """How to open `device`, if it is one of this machine's; raises LatteError where it is not."""
    from latte_cli.profiles import spec_here
    from latte_cli.worker import Opening

    found = spec_here(device, settings.threads)
    if found is None:
        raise _elsewhere(device)
    spec, name = found
    return Opening(
        device=str(spec),
        threads=settings.threads if device.kind.threaded else None,
        name=name,
        precisions=(settings.precision,),
        layouts=(settings.layout,),
    )


def _elsewhere(device: "Device") -> LatteError:
    return LatteError(
        f"`{device.slug}` is not this machine, so nothing of it can be measured here", hint="run it there"
    )
