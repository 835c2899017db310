"""Public rows for `datasheets.py`: layers, passes and whole steps as blocks that name their device and their settings.

The data are third parties' (see docs/datasheets.md). torchvision's networks are read through LATTE where torchvision is
installed, once; their calls are kept in `--networks`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT
from latte_cli.layers import Convolution, Layer, Optimizer, Phase, layer_from_text
from latte_cli.precisions import Precision

Call = tuple[Layer, Phase]

DEVICES = {
    "results/1080TI": "nvidia-geforce-gtx-1080-ti",
    "results/TITANXP": "nvidia-titan-xp",
    "results/TitanV": "nvidia-titan-v",
    "results/2080TI": "nvidia-geforce-rtx-2080-ti",
    "results/2080ti(2)": "nvidia-geforce-rtx-2080-ti",
    "results/TitanRTX": "nvidia-titan-rtx",
    "GeForce GTX 1080": "nvidia-geforce-gtx-1080",
    "GeForce GTX 1080 Ti": "nvidia-geforce-gtx-1080-ti",
    "GeForce GTX TITAN X": "nvidia-geforce-gtx-titan-x",
    "TITAN X": "nvidia-titan-x-pascal",
    "cpu": "intel-xeon-e5-2630-v3",
    "AMD_MI25": "amd-radeon-instinct-mi25",
    "AMD_VegaFE": "amd-radeon-vega-frontier-edition",
    "NV_1080Ti": "nvidia-geforce-gtx-1080-ti",
    "NV_M40": "nvidia-tesla-m40",
    "NV_P100": "nvidia-tesla-p100-pcie-16gb",
    "NV_T4": "nvidia-tesla-t4",
    "NV_TitanX": "nvidia-geforce-gtx-titan-x",
    "NV_TitanX_Pascal": "nvidia-titan-x-pascal",
    "NV_TitanXp": "nvidia-titan-xp",
    "NV_V100": "nvidia-tesla-v100-pcie-16gb",
    "NVIDIA_A100_80GB_PCIe": "nvidia-a100-80gb-pcie",
    "Tesla_T4": "nvidia-tesla-t4",
    "Tesla_P4": "nvidia-tesla-p4",
}
"""The data sheet of each device, by the name that a data set has for it."""

OF_2018 = 15  # networks that a run of the script of 2018 has


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Calls, each made so many times, and the seconds that they took together; `label` names the network or layer."""

    label: str
    calls: Sequence[tuple[Call, int]]
    seconds: float
    host_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Observations on one machine under the same settings.

    `what` is `step`, `pass` (forward or backward alone) or `layer`. A step of the script of 2020 copies its batch,
    `copied_bytes`. `library` names an old library of convolutions.
    """

    source: str
    device: str
    machine: str
    precision: Precision
    what: str
    observations: Sequence[Observation]
    library: str = ""
    threads: int = 0
    copied_bytes: float = 0.0


def networks(path: Path) -> dict[str, Any]:
    """The calls of torchvision's networks and of cnn-benchmarks', by name, as `datasheets_networks.py` keeps them."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def step_calls_of(entry: Any) -> list[tuple[Call, int]]:
    """A step's calls: those of its layers, its loss, gradients filled with zeros, and added to."""
    calls = [((layer_from_text(text), Phase(phase)), count) for text, phase, count in entry["calls"]]
    tensors, numbers = entry["tensors"], entry["parameters"]
    moves = (1, 3)  # a fill writes, an addition reads two and writes one
    beside = [Optimizer(function="zero-grad", tensors=tensors, elements=moved * numbers) for moved in moves]
    return [*calls, *(((layer, Phase.UPDATE), 1) for layer in beside)]


def step_blocks(data: Path, known: dict[str, Any]) -> Iterator[Block]:
    """Whole steps of pytorch-gpu-benchmark on one GPU, a block for each run of its script and each precision."""
    rows = pd.read_csv(data / "steps/pytorch_gpu_benchmark.csv.gz")
    rows = rows[(rows.phase == "train") & (rows.gpus == 1) & (rows.folder != "new_results")]
    for (folder, name), own in rows.groupby(["folder", "precision"]):
        if name == "fp64":
            continue
        own = own.assign(run=own.groupby("network").cumcount())
        whole = own.groupby("network").ngroups > OF_2018
        for run, one in own.groupby("run"):
            new = whole and run == 0
            yield Block(
                source="steps",
                device=DEVICES[folder],
                machine=f"{folder} {run}",
                precision=Precision(name),
                what="step",
                library="cudnn7",
                copied_bytes=4.0 * 12 * 3 * 224 * 224 if new else 0.0,
                observations=[
                    Observation(label=row.network, calls=step_calls_of(known[row.network]), seconds=row.median_ms / 1e3)
                    for row in one.itertuples()
                ],
            )


def pass_blocks(data: Path, known: dict[str, Any]) -> Iterator[Block]:
    """Forward and backward passes of cnn-benchmarks, alone."""
    rows = pd.read_csv(data / "steps/cnn_benchmarks.csv.gz", keep_default_na=False)
    for (device, version), own in rows.groupby(["device", "cudnn"]):
        observations = []
        for row in own.itertuples():
            calls = [((layer_from_text(t), Phase(p)), n) for t, p, n in known[f"cnn/{row.network}"]["calls"]]
            forward = [one for one in calls if one[0][1] is Phase.FORWARD]
            backward = [one for one in calls if one[0][1] is not Phase.FORWARD]
            observations.append(
                Observation(label=f"{row.network} forward", calls=forward, seconds=float(row.forward_ms) / 1e3)
            )
            observations.append(
                Observation(label=f"{row.network} backward", calls=backward, seconds=float(row.backward_ms) / 1e3)
            )
        yield Block(
            source="passes",
            device=DEVICES[device],
            machine=f"cnn {device}",
            precision=Precision.FP32,
            what="pass",
            library="lua" if version == "none" else f"cudnn{version[0]} in lua",
            threads=0,
            observations=observations,
        )


def _convolution(
    batch: int, c: int, k: int, size: tuple[int, ...], kernel: tuple[int, ...], **more: Any
) -> Convolution:
    return Convolution(batch=batch, in_channels=c, out_channels=k, input=size, kernel=kernel, **more)


def neusight_blocks(data: Path) -> Iterator[Block]:
    """3x3 convolutions, forward, in fp32."""
    for path in sorted((data / "neusight").glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        rows = pd.read_csv(path).groupby(["B", "Input_Channel", "Output_Channel", "Input_Size"]).Latency.median()
        yield Block(
            source="neusight",
            device=DEVICES[name],
            machine=f"neusight {name}",
            precision=Precision.FP32,
            what="layer",
            observations=[
                Observation(
                    label="3x3",
                    calls=[
                        (
                            (
                                _convolution(
                                    b, c, k, (s, s), (3, 3), stride=(1, 1), pad_before=(1, 1), pad_after=(1, 1)
                                ),
                                Phase.FORWARD,
                            ),
                            1,
                        )
                    ],
                    seconds=ms / 1e3,
                )
                for (b, c, k, s), ms in rows.items()
            ],
        )


_HALF = "Results - FP16 ip, Mixed math"


def deepbench_blocks(data: Path) -> Iterator[Block]:
    """DeepBench's convolutions in fp32, and in fp16 on tensor cores."""
    rows = pd.read_csv(data / "deepbench/conv_train.csv.gz", dtype={"cudnn": str})
    for (device, sheet), own in rows.groupby(["device", "sheet"]):
        if device not in DEVICES or "Psuedo" in sheet or own.stride_v.isna().all():
            continue  # the oldest sheets name no strides
        version = str(own.cudnn.iloc[0])[0]
        observations = []
        own = own.assign(**{name: pd.to_numeric(own[name], errors="coerce") for name in own if name.endswith("_ms")})
        sizes = own.drop(columns=["device", "sheet", "cudnn", "cuda", "driver", "fwd_algo"])
        sizes = sizes.dropna(subset=[name for name in sizes if not name.endswith("_ms")])
        for row in sizes.astype({name: int for name in sizes if not name.endswith("_ms")}).itertuples():
            layer = _convolution(
                row.n,
                row.c,
                row.k,
                (row.h, row.w),
                (row.filter_h_R, row.filter_w_S),
                stride=(row.stride_v, row.stride_h),
                pad_before=(row.pad_h, row.pad_w),
                pad_after=(row.pad_h, row.pad_w),
            )
            for phase, ms in zip(layer.phases, (row.fwd_ms, row.bwd_input_ms, row.bwd_param_ms), strict=True):
                if float(ms or 0) > 0:
                    found = Observation(label="convolution", calls=[((layer, phase), 1)], seconds=float(ms) / 1e3)
                    observations.append(found)
        yield Block(
            source="deepbench",
            device=DEVICES[device],
            machine=f"deepbench {device}",
            precision=Precision.FP16 if sheet == _HALF else Precision.FP32,
            what="layer",
            library=f"cudnn{version}" if version in "567" else "",
            observations=observations,
        )


def profile_blocks(store: Any) -> Iterator[Block]:
    """The shipped profiles, layer by layer: the faster of torch's own choice and what its benchmark mode takes."""
    from latte_cli.lookup import Lookup
    from latte_cli.precisions import Layout

    for slug, device, threads in (
        ("nvidia-h200-reference", "nvidia-h200", 0),
        ("reference-amd-epyc-family-26-model-2-2c-2t", "amd-epyc-9755", 2),
    ):
        timings = Lookup(store, slug, precision=Precision.FP32, layout=Layout.NCHW).everything()
        best: dict[Any, Any] = {}
        for timing in timings:
            task = timing.task
            if task.algorithm in (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK) and not task.layer.free:
                key = (task.settings.precision, task.layer, task.phase)
                if key not in best or timing.device_s < best[key].device_s:
                    best[key] = timing
        for precision in dict.fromkeys(key[0] for key in best):
            own = [(key, timing) for key, timing in best.items() if key[0] is precision]
            yield Block(
                source="profile",
                device=device,
                machine=slug,
                precision=precision,
                what="layer",
                threads=threads,
                observations=[
                    Observation(
                        label=key[1].kind,
                        calls=[((key[1], key[2]), 1)],
                        seconds=timing.device_s,
                        host_s=timing.host_s if device == "nvidia-h200" else None,
                    )
                    for key, timing in own
                ],
            )


def thinned(block: Block, most: int, seed: int = 0) -> Block:
    """At most so many of a block's observations, drawn at random."""
    if len(block.observations) <= most:
        return block
    drawn = np.random.default_rng(seed).permutation(len(block.observations))[:most]
    return replace(block, observations=[block.observations[at] for at in sorted(drawn)])
