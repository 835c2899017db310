"""How long the store takes on a million rows: `python benchmarks/store_speed.py [--rows N]`.

Rows are made in bulk in a temporary directory. Each time is that of a fresh process, the imports shown apart; CPU time
tells a busy machine from a slow store.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from latte_cli import child

_ROWS_PER_LAYER = 50
_SAMPLES = 12
_NETWORK = 60


def answer(request: Mapping[str, Any]) -> list[float]:
    """The child process of `times`, which imports nothing heavy before."""
    start = time.perf_counter()
    import pyarrow.compute
    import pyarrow.fs
    import pyarrow.parquet  # noqa: F401 - what reading takes

    from latte_cli.layers import layer_from_text
    from latte_cli.store import open_store

    imported = time.perf_counter()
    store = open_store(request["store"], shipped=False)
    if request["what"] == "info":
        found = store.info().devices[0].rows
    else:
        found = len(store.measurements("synthetic", layers=map(layer_from_text, request["network"])))
    end = time.perf_counter()
    return [end - imported, imported - start, time.process_time(), found]


def layers(rows: int) -> list[str]:
    from latte_cli.layers import Convolution, layer_text

    made = (
        Convolution(batch=2 ** (n % 6), in_channels=3 + n, out_channels=64, input=(32, 32), kernel=(3, 3))
        for n in range(rows // _ROWS_PER_LAYER)
    )
    return [layer_text(layer) for layer in made]


def words(values: list[str], indices: Any) -> Any:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(values))


def table(texts: list[str]) -> Any:
    """Rows of all those layers, the columns that matter for speed filled as a profile fills them."""
    import numpy as np
    import pyarrow as pa

    from latte_cli.layers import layer_from_text
    from latte_cli.store import schema

    rows = len(texts) * _ROWS_PER_LAYER
    draw, numbers = np.random.default_rng(0), np.arange(rows)
    of_layer, same = np.repeat(np.arange(len(texts)), _ROWS_PER_LAYER), np.zeros(rows, dtype=np.int64)
    samples = pa.array(draw.lognormal(-7, 1, _SAMPLES * rows).astype(np.float32))
    times = pa.ListArray.from_arrays(pa.array(np.arange(0, _SAMPLES * rows + 1, _SAMPLES), pa.int32()), samples)
    known = {
        "task_id": pa.array([f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(rows)]),
        "layer_id": words([schema.layer_id(layer_from_text(text)) for text in texts], of_layer),
        "layer": words(texts, of_layer),
        "phase": words(["forward", "backward_data", "backward_filter"], numbers % 3),
        "device_times_s": times,
        "host_times_s": times,
        "measured_at": pa.array(numbers.astype(np.float64)),
    }
    fixed = {"kind": "convolution", "outcome": "ok", "evidence": "samples", "precision": "fp32", "layout": "nchw"}
    filler = {pa.string(): "", pa.float64(): 0.5, pa.bool_(): False}

    def column(field: Any) -> Any:
        if pa.types.is_dictionary(field.type):
            return words([fixed.get(field.name, "x")], same)
        value = (
            {} if pa.types.is_struct(field.type) else [] if pa.types.is_list(field.type) else filler.get(field.type, 1)
        )
        return pa.array([value], field.type).take(pa.array(same))

    plan = schema.arrow_schema()
    return pa.Table.from_arrays([known.get(field.name, column(field)) for field in plan], schema=plan)


def times(store: str, what: str, network: list[str]) -> tuple[float, float, float, int]:
    """Of the best of three runs: seconds in the store, in imports and of the CPU, and how many rows it found."""
    request = {"store": store, "what": what, "network": network}
    return min(tuple(child.ask("store_speed:answer", request)) for _ in range(3))


def main() -> None:
    from latte_cli.devices import CPU, Device
    from latte_cli.store.parts import PartDirectory

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    texts = layers(rows)
    with tempfile.TemporaryDirectory() as folder:
        device = Device(slug="synthetic", kind=CPU, name="synthetic")
        part = PartDirectory(folder).write(device, "all", table(texts))
        print(f"{rows} rows of {len(texts)} layers, {part.size_bytes / 2**20:.1f} MiB")
        network = texts[:: max(1, len(texts) // _NETWORK)][:_NETWORK]
        for what, title in (("info", "info"), ("layers", f"look-up of {len(network)} layers")):
            took, imports, cpu, found = times(folder, what, network)
            print(f"{title}: {took:.2f} s (and imports {imports:.2f} s; CPU in all {cpu:.2f} s), {found} rows")


if __name__ == "__main__":
    main()
