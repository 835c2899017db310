"""Real steps: networks that are run whole on this machine, and the rows of their passes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import Device
from latte_cli.layers import Phase, Whole
from latte_cli.measure import Measurement, QualityFlag, spread
from latte_cli.network import Network
from latte_cli.network.structure import whole_of
from latte_cli.tasks import Settings, Task

if TYPE_CHECKING:
    from latte_cli.backends.torch.training import RunRequest

_CACHE_STATE = "whole_network"
_LEAST = 3  # chosen: the fewest steps that tell one which was disturbed from the others


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to run whole, and how a process builds it."""

    network: Network
    run: "RunRequest"

    @property
    def whole(self) -> Whole:
        """The layer under which its rows are filed."""
        return whole_of(self.network)


def pass_row(task: Task, device: Device, times_s: Sequence[float], *, number: int, origin: str) -> Measurement:
    """The row of one part of steps that took `times_s`; without times, the frame of a row."""
    times_s = tuple(times_s)
    noisy = bool(times_s) and spread(times_s) > device.kind.sampling.noisy
    return Measurement(
        task=task,
        device=device,
        sweep_pass=number,
        origin=origin,
        measured_at=time.time(),
        cache_state=_CACHE_STATE if times_s else "",
        device_times_s=times_s,
        host_times_s=times_s,
        flags=(QualityFlag.NOISY,) if noisy else (),
    )


def run_steps(
    subject: Subject, settings: Settings, device: Device, *, number: int, origin: str, seconds: float, left_s: float
) -> list[Measurement]:
    """Run steps of `subject` as PyTorch makes them, for about so many `seconds`: a row for each part of them.

    They end once `left_s` have passed, at the latest after some more for a step that is under way. Raises Unsupported,
    OutOfMemory or Failed.
    """
    from latte_cli.backends.torch.whole import run_apart

    own = replace(subject.run, threads=settings.threads, precision=settings.precision, layout=settings.layout)
    steps = run_apart(replace(own, seconds=seconds, least=_LEAST, deadline=time.time() + left_s))
    parts = {
        Phase.FORWARD: steps.forward_s,
        Phase.BACKWARD: steps.backward_s,
        Phase.UPDATE: steps.update_s,
    }
    tasks = {
        phase: Task(layer=subject.whole, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings) for phase in parts
    }
    return [pass_row(tasks[phase], device, times_s, number=number, origin=origin) for phase, times_s in parts.items()]
