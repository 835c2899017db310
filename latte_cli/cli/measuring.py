"""Measuring on this machine on behalf of a command that needs a few more rows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import latte_cli
from latte_cli.cli import console
from latte_cli.cli.options import parse_shapes
from latte_cli.errors import LatteError
from latte_cli.precisions import Precision

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.devices import Device, Spec
    from latte_cli.estimator import Estimate
    from latte_cli.network import Network
    from latte_cli.real_steps import Subject
    from latte_cli.store import Store
    from latte_cli.tasks import Settings, Task
    from latte_cli.worker import Opening


FIRST_SECONDS = 10.0  # chosen: what somebody waits for a first answer; importing torch takes two or three of them


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What was measured for an estimate: so many calls on a device of this machine, in how many seconds in all."""

    device: str
    calls: int
    seconds: float
    steps: int = 0

    def sentence(self, *, narrow: bool) -> str:
        """It in a sentence, with what would `narrow` the interval further where that is said."""
        counts = [f"{n} {what}" if n == 1 else f"{n} {what}s" for n, what in self._counts if n]
        what = " and ".join(counts) or "nothing more"
        more = "; `latte profile --budget 2m` narrows the interval" if narrow else ""
        return f"measured {what} of `{self.device}` in {self.seconds:.1f} s, kept in the store{more}"

    @property
    def _counts(self) -> list[tuple[int, str]]:
        return [(self.calls, "call"), (self.steps, "whole step")]


def measured_profile(
    store: "Store",
    name: str | None,
    request: "EstimateRequest",
    network: "Network",
    estimates: "Callable[[str], Sequence[Estimate]]",
) -> str:
    """The slug of the profile that `name` means, once what a request of `network` wants measured first has been.

    `estimates` are those of the request on a device, whatever is not known of it. Raises LatteError as
    `resolve_profile` does where nothing is to be measured.
    """
    from latte_cli.profiles import NoProfile, resolve_profile

    spec: Spec | None = None
    try:
        slug = resolve_profile(store, name, request.threads)
        seconds = None if any(each.device == slug for each in request.spent) else request.measure
        if seconds is None:
            return slug
    except NoProfile as exc:
        slug, spec, seconds = "", exc.spec, request.seconds_unprofiled
        if seconds is None:
            raise
    opening = opening_for(store, slug, spec, request)
    spent = spend_here(store, opening, seconds, _subject(request, network), estimates)
    request.spent.append(spent)
    console.note(spent.sentence(narrow=not slug))
    return spent.device


def _subject(request: "EstimateRequest", network: "Network") -> "Subject | None":
    """How a process builds the network of a request to run it; None where its file alone does not tell."""
    from latte_cli.backends.torch.training import RunRequest
    from latte_cli.real_steps import Subject

    if request.content is not None or request.freeze or request.restore_norms or network.unknown:
        return None
    run = RunRequest(
        model=str(request.model),
        batch_size=network.batch_size,
        batch_axis=request.batch_axis,
        sizes=parse_shapes(request.shape),
    )
    return Subject(network=network, run=run)


def spend_here(
    store: "Store",
    opening: "Opening",
    seconds: float,
    subject: "Subject | None",
    estimates: "Callable[[str], Sequence[Estimate]]",
) -> Spent:
    """Measure for so many seconds, from now on, what tells most of the `estimates` on the device that is opened.

    `subject` is their network, if it can be run. Rows are kept as they are made. Where the device has none yet, some
    that tell of every network come first.
    """
    from latte_cli import suites
    from latte_cli.estimator.spending import Spending
    from latte_cli.worker import Worker

    start = time.monotonic()
    with Worker(opening) as worker, console.progress("measuring this machine", round(seconds)) as bar:
        device = worker.device
        own = next((each for each in store.devices(own=True) if each.slug == device.slug), None)
        with store.writer(_with_known_context(device, own)) as writer:
            spending = Spending(
                worker=worker,
                writer=writer,
                start=start,
                seconds=seconds,
                origin=f"latte {latte_cli.__version__} estimate",
                subject=subject,
                memory_share=opening.memory_share,
                progress=bar.advance,
                earlier=list(store.measurements(device.slug)) if own else [],
            )
            if own is None:
                spending.on_yardstick(suites.yardstick(0, suites.limits_of(device, opening.memory_share)))
            spending.on_step(estimates(device.slug))
    return Spent(device=device.slug, calls=spending.calls, seconds=time.monotonic() - start, steps=spending.steps)


def _with_known_context(device: "Device", known: "Device | None") -> "Device":
    """`device` with what a process that trains takes of its memory, where its profile says it; measuring it lasts."""
    if known is None or known.libraries != device.libraries:
        return device
    return replace(device, context_bytes=known.context_bytes, call_context_bytes=known.call_context_bytes)


def opening_for(store: "Store", slug: str, spec: "Spec | None", request: "EstimateRequest") -> "Opening":
    """How to open a device of this machine for a request: the one that `spec` means, or that of the profile `slug`.

    Raises LatteError where the profile is another machine's.
    """
    from latte_cli.backends import best_kind
    from latte_cli.estimator import layouts
    from latte_cli.profiles import spec_here, threads_named
    from latte_cli.strategies import by_name
    from latte_cli.worker import Opening

    name, threads = None, request.threads
    if spec is None:
        device, threads = store.device(slug), threads or threads_named(slug)
        spec, name = spec_here(device, threads) or (None, None)
        if spec is None:
            raise _elsewhere(device)
    kind, precision = spec.kind or best_kind(request.threads), Precision(request.precision)
    wanted = [
        layout for each in request.strategies for layout in layouts(by_name(each), request.layout, precision, kind)
    ]
    return Opening(
        device=str(spec),
        threads=threads,
        name=name,
        precisions=(precision,),
        layouts=tuple(dict.fromkeys(wanted)),
    )


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
