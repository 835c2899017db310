"""Made measurements with a rule to learn: which of three algorithms is the fastest follows from the layer."""

from math import prod

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import CPU, Device
from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.measure import Evidence, Measurement, Outcome
from latte_cli.tasks import Settings, Task

DEVICE = Device(slug="desk", kind=CPU, name="a desk")
SETTINGS = Settings(threads=2)
MATRIX = Algorithm(library="torch", name="IM2COL_GEMM")
TRANSFORMED = Algorithm(library="torch", name="WINOGRAD_4X4")
FORWARD = Phase.FORWARD


def convolution(channels: int, size: int, kernel: int = 3, batch: int = 8) -> Convolution:
    half = (kernel // 2,) * 2
    return Convolution(
        batch=batch,
        in_channels=channels,
        out_channels=channels,
        input=(size, size),
        kernel=(kernel, kernel),
        pad_before=half,
        pad_after=half,
    )


def row(
    layer: Layer,
    algorithm: Algorithm,
    time_s: float | None,
    *,
    phase: Phase = FORWARD,
    workspace_bytes: int | None = 0,
    sweep_pass: int = 0,
    settings: Settings = SETTINGS,
    device: Device = DEVICE,
) -> Measurement:
    return Measurement(
        task=Task(layer=layer, phase=phase, algorithm=algorithm, settings=settings),
        device=device,
        sweep_pass=sweep_pass,
        outcome=Outcome.OK if time_s is not None else Outcome.UNSUPPORTED,
        evidence=Evidence.SUMMARY,
        summary_s=time_s,
        workspace_bytes=workspace_bytes,
    )


def profile(device: Device = DEVICE, phases: tuple[Phase, ...] = (FORWARD,)) -> list[Measurement]:
    """Rows with a rule to learn: many channels suit the transform, 1x1 kernels the matrix product."""
    rows = []
    for phase in phases:
        for channels in (4, 8, 16, 24, 48, 64, 96, 128, 192):
            for size in (7, 14, 28, 56):
                layer = convolution(channels, size, kernel=1 if size == 14 else 3)
                work = layer.flops(FORWARD) / 1e11
                bytes_ = 4 * prod(layer.output_shape)
                pointwise = layer.kernel == (1, 1)
                fast = work * (3.0 if channels < 32 else 0.5)
                rows.append(row(layer, FRAMEWORK_DEFAULT, work * 1.2, phase=phase, device=device))
                matrix_s = work * (0.6 if pointwise else 1.4)
                rows.append(row(layer, MATRIX, matrix_s, phase=phase, workspace_bytes=2 * bytes_, device=device))
                transformed_s = None if pointwise else fast
                rows.append(
                    row(layer, TRANSFORMED, transformed_s, phase=phase, workspace_bytes=6 * bytes_, device=device)
                )
    return rows
