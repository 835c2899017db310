"""Compiling: rows of whole networks, eager and as `torch.compile` makes them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latte_cli.algorithms import COMPILED, FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.devices import Device
from latte_cli.layers import Phase
from latte_cli.measure import Measurement, Outcome
from latte_cli.real_steps import Subject, pass_row
from latte_cli.sweep import Sink
from latte_cli.tasks import Settings, Task

if TYPE_CHECKING:
    from latte_cli.backends.torch.whole import Steps

PHASES = (Phase.FORWARD, Phase.BACKWARD)
"""What is compiled of a step; the loss and the update stay as they are."""

PASSES = 2
"""Processes for each network, the fewest with a spread: times differ between processes by their memory."""
_SECONDS = 4.0  # chosen: tens of steps of each kind for most networks


@dataclass(frozen=True, kw_only=True)
class CompiledSummary:
    """How many passes over networks were measured, were there already, and failed for the `reasons`."""

    measured: int = 0
    resumed: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether every pass failed."""
        return bool(self.reasons) and not self.measured + self.resumed

    @property
    def passes(self) -> int:
        """All passes that were wanted."""
        return self.measured + self.resumed + len(self.reasons)


def measure_compiled(
    subjects: Sequence[Subject],
    settings: Sequence[Settings],
    device: Device,
    sink: Sink,
    *,
    earlier: Collection[Measurement] = (),
    seconds: float = _SECONDS,
    origin: str = "",
    progress: Callable[[int, str], None] = lambda done, label: None,
) -> CompiledSummary:
    """Run each of the `subjects` eager and compiled under each of the `settings`, in two processes one after the other,
    each of which makes steps for about so many `seconds`.

    Passes that `earlier` rows have are not made again. Each row is in `sink` before the next pass begins.
    """
    from latte_cli.backends.torch.compiled import compiler_cache

    known = {(row.task.id, row.sweep_pass) for row in earlier}
    passes = [
        _Pass(
            subject=replace(subject, run=replace(subject.run, seconds=seconds)),
            settings=one,
            device=device,
            number=number,
            origin=origin,
        )
        for subject in subjects
        for one in settings
        for number in range(PASSES)
    ]
    fresh = [each for each in passes if any((task.id, each.number) not in known for task in each.tasks)]
    found = CompiledSummary(resumed=len(passes) - len(fresh))
    with compiler_cache() as variables:
        for done, each in enumerate(fresh):
            progress(found.resumed + done, each.subject.network.name)
            rows = each.measure(variables)
            for row in rows:
                sink.append(row)
            reason = next((row.detail for row in rows if row.outcome is not Outcome.OK), "")
            found = replace(
                found,
                measured=found.measured + (not reason),
                reasons=(*found.reasons, *((f"{each.subject.network.name}: {reason}",) if reason else ())),
            )
    return found


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over a network: its eager and its compiled steps in one process."""

    subject: Subject
    settings: Settings
    device: Device
    number: int
    origin: str

    def measure(self, variables: Mapping[str, str]) -> list[Measurement]:
        """Its rows, from a process with these `variables`; every way it can end is rows."""
        from latte_cli.backends.torch.compiled import compile_apart

        own = self.settings
        run = replace(self.subject.run, threads=own.threads, precision=own.precision, layout=own.layout)
        try:
            return list(self._rows(*compile_apart(run, variables)))
        except (Unsupported, OutOfMemory, Failed) as exc:
            return list(self._failures(exc))

    @property
    def tasks(self) -> list[Task]:
        """What it times."""
        return [self._task(algorithm, phase) for algorithm in (FRAMEWORK_DEFAULT, COMPILED) for phase in PHASES]

    def _task(self, algorithm: Algorithm, phase: Phase) -> Task:
        return Task(layer=self.subject.whole, phase=phase, algorithm=algorithm, settings=self.settings)

    def _row(self, algorithm: Algorithm, phase: Phase, times_s: Sequence[float] = ()) -> Measurement:
        task = self._task(algorithm, phase)
        return pass_row(task, self.device, times_s, number=self.number, origin=self.origin)

    def _rows(self, eager: "Steps", compiled: "Steps") -> Iterator[Measurement]:
        """A row for each way and phase."""
        for algorithm, steps in ((FRAMEWORK_DEFAULT, eager), (COMPILED, compiled)):
            for phase, times in zip(PHASES, (steps.forward_s, steps.backward_s), strict=True):
                yield self._row(algorithm, phase, times)

    def _failures(self, exc: Exception) -> Iterator[Measurement]:
        """The rows of a pass that did not run."""
        outcomes = {Unsupported: Outcome.UNSUPPORTED, OutOfMemory: Outcome.OUT_OF_MEMORY, Failed: Outcome.FAILED}
        for phase in PHASES:
            yield replace(self._row(COMPILED, phase), outcome=outcomes[type(exc)], detail=str(exc))
