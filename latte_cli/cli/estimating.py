"""Estimating: the estimates that a request asks for, on each device under each strategy and limit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latte_cli.cli import console
from latte_cli.cli.measuring import measured_profile
from latte_cli.cli.options import parse_shapes
from latte_cli.cli.stores import store_to_read
from latte_cli.cli.together import measuring_compiled
from latte_cli.errors import LatteError
from latte_cli.report import size

if TYPE_CHECKING:
    from latte_cli.cli.estimate import EstimateRequest
    from latte_cli.cli.several_batches import KeptEstimators
    from latte_cli.devices import Device
    from latte_cli.estimator import Estimate
    from latte_cli.network import Network
    from latte_cli.store import Store
    from latte_cli.tasks import Task


def request_estimates(
    request: "EstimateRequest", note: Callable[[str], None] = console.note, kept: "KeptEstimators | None" = None
) -> "list[Estimate]":
    """The estimates on each device under each strategy and limit; what is doubtful is measured first, if so asked.

    `kept` are the estimators that earlier requests of other batches made, by device.
    """
    network = _network(request, note)
    store = store_to_read(request.store, request.warn_of_store(note))
    names: list[str] | list[None] = request.devices or [None]
    unsure = replace(request, allow_unknown=True)

    def known_so_far(slug: str) -> "list[Estimate]":
        return _estimates_on(slug, unsure, store, network, {}, console.detail)

    slugs = [measured_profile(store, name, request, network, known_so_far) for name in names]
    kept = {} if kept is None or request.measure_below is not None else kept
    estimates = [each for slug in slugs for each in _estimates_on(slug, request, store, network, kept)]
    if request.measure_below is not None and _measure_unsure(store, estimates, request.measure_below):
        estimates = [each for slug in slugs for each in _estimates_on(slug, request, store, network, {})]
    _say_left_out(estimates, slugs, request.memory_limit or ())
    return estimates


def _network(request: "EstimateRequest", note: Callable[[str], None]) -> "Network":
    """The model as it is trained; raises LatteError for unknown names before it is read."""
    from latte_cli.estimator import check_names
    from latte_cli.network import load
    from latte_cli.network.training import freeze_parameters, with_norms

    for strategy in request.strategies:
        check_names(request.precision, request.layout, strategy, request.optimizer, request.loss, request.estimator)
    network = load(
        request.content or request.model,
        batch_size=request.batch,
        batch_axis=request.batch_axis,
        compare_weights=request.compare_weights,
        sizes=parse_shapes(request.shape),
        allow_unknown=request.allow_unknown,
    )
    for text in network.notes:
        note(text)
    return freeze_parameters(with_norms(network) if request.restore_norms else network, request.freeze or ())


def _estimates_on(
    slug: str,
    request: "EstimateRequest",
    store: "Store",
    network: "Network",
    kept: "KeptEstimators",
    note: Callable[[str], None] = console.note,
) -> "list[Estimate]":
    from latte_cli.estimator import Limits, estimate_each
    from latte_cli.estimator.compiled import NotRunCompiled

    memories: list[int] | list[None] = request.memory_limit or [None]
    try:
        return estimate_each(
            store,
            slug,
            network,
            strategies=request.strategies,
            limits=[Limits(workspace_bytes=request.workspace_limit, memory_bytes=most) for most in memories],
            precision=request.precision,
            layout=request.layout,
            threads=request.threads,
            estimator=request.estimator,
            optimizer=request.optimizer,
            loss=request.loss,
            accumulate=request.accumulate,
            cuda_graph=request.cuda_graph,
            rest=request.rest,
            checkpoint=request.checkpoint,
            compiled=request.compiled,
            replicated=request.replicated,
            allow_unknown=request.allow_unknown,
            rough=any(each.device == slug for each in request.spent),
            kept=kept.setdefault(slug, {}),
            note=note,
        )
    except NotRunCompiled as exc:
        raise LatteError(exc.message, hint=measuring_compiled(request), exit_code=exc.exit_code) from exc


def _say_left_out(estimates: "Sequence[Estimate]", slugs: Sequence[str], memories: Sequence[int]) -> None:
    """Say which limits are below what the step needs."""
    found = {(each.device.slug, each.limits.memory_bytes) for each in estimates}
    for slug in slugs:
        if left := [most for most in memories if (slug, most) not in found]:
            console.warn(f"the step does not fit {', '.join(map(size, left))} (`{slug}`): left out")


def _measure_unsure(store: "Store", estimates: "Sequence[Estimate]", below: float) -> bool:
    """Whether anything was measured in place of choices of low confidence."""
    from latte_cli.cli.measuring import measure_here
    from latte_cli.estimator import doubtful

    wanted: dict[Device, dict[Task, None]] = {}
    for each in estimates:
        wanted.setdefault(each.device, {}).update(dict.fromkeys(doubtful(store, each, below)))
    for device, tasks in wanted.items():
        if tasks:
            measure_here(store, device, tuple(tasks), f"measuring where less sure than {below:g}")
    return any(wanted.values())
