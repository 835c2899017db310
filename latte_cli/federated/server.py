"""The server's side of a federation, as a Flower ServerApp: it runs the rounds and writes what comes of them."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result
from numpy.typing import NDArray

from latte_cli import files
from latte_cli.allocator import catalogue, read_plan
from latte_cli.allocator.rounds_file import ROUNDS_SCHEMA
from latte_cli.errors import LatteError
from latte_cli.federated import device, messages, models
from latte_cli.federated.receiving import Receiving
from latte_cli.federated.replies import reason
from latte_cli.federated.settings import FederationSettings, settings
from latte_cli.federated.strategy import LONGEST_WAIT_S, Overlap
from latte_cli.federated.training import evaluate_network, initial
from latte_cli.federated.virtual import fleet_of
from latte_cli.network import Network
from latte_cli.network.parts import write_arrays
from latte_cli.network.weights import weights

app = ServerApp()

log = logging.getLogger("flwr")

_LOOK_AGAIN_S = 1.0  # chosen: devices take seconds to connect


@app.main()
def serve_federation(grid: Grid, context: Context) -> None:
    """Run the federation that the run's configuration describes.

    Raises LatteError in one printable line, which Flower writes to its log.
    """
    try:
        federation(grid, settings(context.run_config))
    except LatteError as exc:
        said = reason(exc)
        log.error("the federation ends: %s", said)
        raise LatteError(said, exit_code=exc.exit_code) from None


def federation(grid: Grid, chosen: FederationSettings) -> tuple[Overlap, Result]:
    """Run the rounds of a federation over `grid`, and write what comes of them to the folder `output`, if any.

    Raises LatteError for a model that cannot be trained so, an `output` that is there already, data that are too few
    for the devices of a fleet, devices that do not come, and where none of them can take part.
    """
    output = _open_output(chosen.output)
    model = models.content(chosen.model, image_size=chosen.image_size, classes=chosen.classes)
    network = models.network_from(model, batch=chosen.batch)
    strategy = _strategy(network, model, chosen)
    grid = Receiving(grid, strategy.limit_s)
    device.check_parts(chosen, network)
    first = initial(network, seed=chosen.seed, weights=weights(chosen.model) if chosen.pretrained else None)
    _wait(grid, chosen)
    strategy.price(grid)
    if not strategy.devices:
        raise LatteError("no device can take part", hint="the warnings above say why")
    strategy.duration_s()
    strategy.warn_of_untrained()
    result = strategy.start(
        grid,
        messages.array_record(first),
        num_rounds=chosen.rounds,
        timeout=chosen.timeout_s or LONGEST_WAIT_S,
        evaluate_fn=_evaluation(network, chosen),
    )
    if output:
        arrays = messages.arrays_in(result.arrays) if result.arrays else first
        _write(output, network, arrays, strategy, result)
    return strategy, result


def _strategy(network: Network, model: bytes, chosen: FederationSettings) -> Overlap:
    """The strategy with the catalogue of the settings, or with a plan's sub-models and round duration.

    Where neither says a round duration, it is that of the fleet, if any.
    """
    fleet = fleet_of(chosen)
    if fleet and not (chosen.round_duration_s or chosen.plan):
        chosen = replace(chosen, round_duration_s=fleet.round_duration_s)
    if not chosen.plan:
        return Overlap(network, model, catalogue(network, chosen.widths, chosen.depths), chosen)
    file = read_plan(chosen.plan)
    file.check_model(network)
    duration_s = chosen.round_duration_s or file.plan.round_duration_s
    return Overlap(network, model, file.plan.sub_models, replace(chosen, round_duration_s=duration_s))


def _open_output(output: str) -> Path | None:
    if not output:
        return None
    folder = Path(output)
    if (folder / "rounds.json").exists():
        raise LatteError(f"`{folder}` holds a federation's result already", hint="name another `output`")
    files.make_folder(folder)
    return folder


def _wait(grid: Grid, chosen: FederationSettings) -> None:
    """Wait until as many devices as wanted have registered."""
    until = time.monotonic() + (chosen.timeout_s or LONGEST_WAIT_S)
    while len(list(grid.get_node_ids())) < chosen.devices:
        if time.monotonic() > until:
            there = len(list(grid.get_node_ids()))
            raise LatteError(f"only {there} of {chosen.devices} devices came", hint="start more, or set `devices`")
        time.sleep(_LOOK_AGAIN_S)


def _evaluation(network: Network, chosen: FederationSettings) -> Any:
    """What evaluates the whole network after each round; None where the server has no data."""
    if not chosen.data or not chosen.held_out:
        return None
    training, held_out = device.whole(chosen, network)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        score = evaluate_network(network, messages.arrays_in(arrays), held_out, statistics=training)
        return MetricRecord({"accuracy": score.accuracy, "loss": score.loss})

    return evaluate


def _plain(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics as JSON has them; the loss of a network that diverged is None."""
    return {name: value if isfinite(value) else None for name, value in metrics.items()}


def _write(folder: Path, network: Network, arrays: dict[str, NDArray[Any]], strategy: Overlap, result: Result) -> None:
    write_arrays(folder / "model.safetensors", arrays)
    document = {
        "schema": ROUNDS_SCHEMA,
        "model": {"name": network.name, "sha256": network.sha256, "batch": network.batch_size},
        "round_duration_s": strategy.round_duration_s,
        "devices": [
            {"name": each.name, "number": each.number, "device": each.device, "examples": each.examples}
            for each in sorted(strategy.devices.values(), key=lambda each: each.number)
        ],
        "refused": sorted(strategy.refused.values()),
        "rounds": [
            asdict(each)
            | {"evaluation": _plain(result.evaluate_metrics_serverapp.get(each.number, {}))}
            | {"local_evaluation": _plain(result.evaluate_metrics_clientapp.get(each.number, {}))}
            for each in strategy.rounds
        ],
        "coverage": asdict(covered) if (covered := strategy.coverage()) else None,
        "frequencies": {name: each.tolist() for name, each in strategy.frequencies.examples.items()},
    }
    files.write_file(folder / "rounds.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
