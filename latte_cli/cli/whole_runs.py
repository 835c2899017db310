"""`latte profile --compile`: the models that are run whole, as they are and as `torch.compile` makes them."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from latte_cli.cli import console
from latte_cli.cli.mixtures import all_sizes
from latte_cli.cli.options import parse_shapes
from latte_cli.errors import ExitCode, LatteError

if TYPE_CHECKING:
    from latte_cli.cli.profile import ProfileRequest
    from latte_cli.compiling import CompiledSummary
    from latte_cli.devices import Kind
    from latte_cli.measure import Measurement
    from latte_cli.network import Network
    from latte_cli.real_steps import Subject
    from latte_cli.store import Writer
    from latte_cli.worker import Worker


def subjects_of(request: "ProfileRequest", networks: "Sequence[Network]", kind: "Kind") -> "list[Subject]":
    """What to run whole: the models at each batch size and shape, else the networks that calibrate a kind of device.

    Raises LatteError where nothing can be compiled.
    """
    from latte_cli.backends.torch.compiled import check_compiler
    from latte_cli.backends.torch.training import RunRequest
    from latte_cli.network.calibration import calibration_networks
    from latte_cli.real_steps import Subject

    if not kind.compiled_steps:
        raise LatteError(
            "compiled steps are measured on CPUs only", hint="leave out `--compile`", exit_code=ExitCode.USAGE
        )
    check_compiler()
    if not request.models:
        return [
            Subject(network=network, run=RunRequest(model=one.name, batch_size=one.batch, image_size=one.size))
            for one, network in calibration_networks(kind)
        ]
    batches: Sequence[int | None] = request.batch_size or [None]
    read = zip(product(request.models, batches, all_sizes(request.shape)), networks, strict=True)
    return [
        Subject(
            network=network,
            run=RunRequest(
                model=str(model), batch_size=batch, batch_axis=request.batch_axis, sizes=parse_shapes(shape)
            ),
        )
        for (model, batch, shape), network in read
    ]


def run_compiled(
    subjects: "Sequence[Subject]",
    worker: "Worker",
    writer: "Writer",
    earlier: "Sequence[Measurement]",
    origin: str,
) -> "CompiledSummary | None":
    """Run the `subjects`, if there are any."""
    if not subjects:
        return None
    from latte_cli.compiling import PASSES, measure_compiled

    with console.progress("running compiled", PASSES * len(subjects) * len(worker.settings)) as bar:
        return measure_compiled(
            subjects,
            worker.settings,
            worker.device,
            writer,
            earlier=earlier,
            origin=origin,
            progress=bar.advance,
        )
