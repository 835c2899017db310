"""What a data sheet tells of times: sane in every size, and as fast as formulas of public knowledge say."""

import json
from dataclasses import replace
from math import log, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.datasheets import Sheet, sheet_named, sheets
from latte_cli.errors import LatteError
from latte_cli.estimator import estimate_one
from latte_cli.layers import Convolution, Elementwise, Layer, Linear, Norm, Phase
from latte_cli.lookup import Source
from latte_cli.network import zoo
from latte_cli.precisions import Precision
from latte_cli.sheet_model import Machine, SheetModel, fit_machine, shipped_fit, terms
from latte_cli.sheet_model.figures import figures_of
from latte_cli.store import open_store
from latte_cli.tasks import Settings, Task


def named(slug: str) -> Sheet:
    sheet = sheet_named(slug)
    assert sheet
    return sheet


def convolution(batch: int = 32, channels: int = 128, size: int = 28, kernel: int = 3, groups: int = 1) -> Convolution:
    pad = (kernel // 2, kernel // 2)
    return Convolution(
        batch=batch,
        in_channels=channels,
        out_channels=channels,
        groups=groups,
        input=(size, size),
        kernel=(kernel, kernel),
        stride=(1, 1),
        pad_before=pad,
        pad_after=pad,
    )


def seconds(
    sheet: Sheet, layer: Layer, phase: Phase = Phase.FORWARD, precision: Precision = Precision.FP32, threads: int = 0
) -> float:
    settings = Settings(precision=precision, threads=threads)
    task = Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=settings)
    timing = SheetModel(sheet).predict([task], sheet.device)[task]
    assert timing.source is Source.DATA_SHEET
    assert timing.low_s < timing.low_80_s < timing.device_s < timing.high_80_s < timing.high_s
    return timing.device_s


@pytest.mark.parametrize("sheet", sheets(), ids=lambda sheet: sheet.slug)
def test_every_device_has_an_estimate(sheet: Sheet) -> None:
    found = estimate_one(open_store("memory-of-none"), sheet.slug, zoo.network("resnet8", batch_size=4))
    assert 0 < found.step_low_s < found.step_s < found.step_high_s < 100


@given(batch=st.sampled_from((1, 8, 64)), channels=st.sampled_from((16, 64, 256)), size=st.sampled_from((7, 28, 56)))
def test_more_work_takes_no_less_time(batch: int, channels: int, size: int) -> None:
    sheet, layer = named("nvidia-geforce-rtx-2080-ti"), convolution(batch, channels, size)
    for phase in layer.phases:
        own = seconds(sheet, layer, phase)
        for more in (convolution(2 * batch, channels, size), convolution(batch, 2 * channels, size)):
            assert seconds(sheet, more, phase) >= 0.99 * own


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16])
def test_faster_figures_take_less_time(precision: Precision) -> None:
    sheet = named("nvidia-a100-sxm4-40gb")
    faster = replace(
        sheet,
        peaks_flop_per_s=tuple((name, 2 * peak) for name, peak in sheet.peaks_flop_per_s),
        bandwidth_bytes_per_s=2 * sheet.bandwidth_bytes_per_s,
    )
    addition = Elementwise(operation="add", shapes=((64, 256, 56, 56),) * 2)
    for layer in (convolution(), Linear(rows=512, in_features=4096, out_features=4096), addition):
        assert seconds(faster, layer, precision=precision) < seconds(sheet, layer, precision=precision)


def test_large_products_reach_between_a_quarter_and_all_of_the_peak() -> None:
    for slug in ("nvidia-titan-v", "nvidia-geforce-gtx-1080-ti", "nvidia-a100-80gb-pcie"):
        sheet, layer = named(slug), Linear(rows=8192, in_features=4096, out_features=4096)
        share = layer.flops(Phase.FORWARD) / seconds(sheet, layer) / (sheet.peak("fp32") or 1)
        assert 0.25 < share < 1.05


def test_additions_move_their_bytes_near_the_bandwidth() -> None:
    layer = Elementwise(operation="add", shapes=((64, 256, 56, 56),) * 2)
    for slug in ("nvidia-titan-v", "nvidia-geforce-gtx-1080-ti", "nvidia-h200"):
        sheet = named(slug)
        share = layer.bytes_moved(Phase.FORWARD, 4) / seconds(sheet, layer) / sheet.bandwidth_bytes_per_s
        assert 0.5 < share < 1.05


@pytest.mark.parametrize("phase, passes", [(Phase.FORWARD, 3), (Phase.BACKWARD, 5)])
def test_norms_read_what_they_normalise_twice(phase: Phase, passes: int) -> None:
    """A norm reads its input for the statistics and again to write; back, input and gradient twice, and it writes."""
    layer = Norm(function="batch", shape=(12, 64, 224, 224))
    moved = passes * 4 * prod(layer.shape)
    for slug in ("nvidia-titan-v", "nvidia-geforce-gtx-1080-ti", "nvidia-titan-rtx"):
        sheet = named(slug)
        assert 0.45 < moved / seconds(sheet, layer, phase) / sheet.bandwidth_bytes_per_s < 1


def test_desktop_cards_reach_the_clock_of_the_best_of_their_process() -> None:
    def headroom(slug: str) -> float:
        return figures_of(named(slug), Precision.FP32).headroom

    best = named("nvidia-geforce-rtx-2080-super").clock_hz or 0.0
    for slug in ("nvidia-titan-v", "nvidia-geforce-gtx-1080-ti", "nvidia-geforce-rtx-2080-ti"):
        assert headroom(slug) == pytest.approx(log(best / (named(slug).clock_hz or 1.0)))
    for slug in ("nvidia-geforce-rtx-2080-super", "nvidia-tesla-v100-pcie-16gb", "nvidia-a100-80gb-pcie"):
        assert headroom(slug) == 0  # data centres' cards stop at the clock of their sheet
    for slug in ("nvidia-jetson-tx2", "amd-radeon-rx-vega-64"):
        assert headroom(slug) == 0


def test_power_strains_cards_whose_clock_needs_more_than_they_may_take() -> None:
    def strain(sheet: Sheet) -> float:
        return figures_of(sheet, Precision.FP32).strain

    small, slow = named("nvidia-tesla-t4"), named("nvidia-tesla-p4")
    assert strain(small) > 0.5
    assert strain(slow) == 0  # 75 W are enough at its low clock
    assert strain(replace(small, power_w=35.0)) == pytest.approx(strain(small) + log(2))
    layer = convolution(channels=512, kernel=1)
    assert seconds(replace(small, power_w=35.0), layer) > 1.1 * seconds(small, layer)
    assert strain(replace(small, power_w=None)) == 0


def test_tensor_cores_are_used_where_the_sheet_has_them() -> None:
    layer = Linear(rows=8192, in_features=4096, out_features=4096)
    for slug, least in (("nvidia-a100-sxm4-40gb", 3.0), ("nvidia-titan-v", 2.0)):
        assert seconds(named(slug), layer) > least * seconds(named(slug), layer, precision=Precision.FP16)
    pascal = named("nvidia-geforce-gtx-1080-ti")
    assert seconds(pascal, layer) == pytest.approx(seconds(pascal, layer, precision=Precision.TF32))


def test_a_precision_without_a_peak_is_refused() -> None:
    for slug in ("nvidia-geforce-gtx-1080-ti", "raspberry-pi-4"):
        with pytest.raises(LatteError, match="no peak in bf16"):
            figures_of(named(slug), Precision.BF16)


def test_threads_share_a_cpu() -> None:
    sheet = named("amd-epyc-7742")
    one, many = (seconds(sheet, convolution(), threads=threads) for threads in (1, 64))
    assert 20 * many < one < 200 * many


def test_two_measurements_tell_both_factors_of_a_machine() -> None:
    truth = Machine(device_factor=1.2, host_factor=0.8)

    def large(machine: Machine) -> float:
        return 0.1 * machine.device_factor

    def many(machine: Machine) -> float:
        return 0.02 * machine.host_factor + 0.001 * machine.device_factor

    found = fit_machine([(large, large(truth)), (many, many(truth))], spread=0.01)
    assert found.device_factor == pytest.approx(1.2, rel=0.02)
    assert found.host_factor == pytest.approx(0.8, rel=0.02)
    assert found.device_spread < 0.02 < 0.1 < Machine().device_spread
    only = fit_machine([(large, large(truth))], spread=0.01)
    assert only.host_factor == pytest.approx(1.0)
    assert only.host_spread == pytest.approx(Machine().host_spread)
    assert fit_machine([]).device_factor == 1.0


def test_a_machine_scales_its_own_clock() -> None:
    sheet, layer = named("nvidia-titan-v"), convolution()
    task = Task(layer=layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=Settings())
    plain, slower = (
        SheetModel(sheet, machine=machine).predict([task], sheet.device)[task]
        for machine in (Machine(), Machine(device_factor=2.0, host_factor=3.0))
    )
    assert slower.device_s == pytest.approx(2 * plain.device_s)
    assert slower.host_s == pytest.approx(3 * plain.host_s)


def test_parameters_stay_near_their_priors() -> None:
    """What a few devices teach must not run away: others have to live with it."""
    for member in shipped_fit().members:
        for name, value in member.items():
            mean, width = terms.prior(name)
            assert abs(value - mean) < 5 * width, name


def test_the_card_names_its_sources_and_licences() -> None:
    card = json.loads((Path(terms.__file__).parent / "fitted.json").read_text())
    assert card["schema"] == "latte.sheet-model/1"
    assert all(source["licence"] and source["url"].startswith("https://") for source in card["sources"])
    assert np.isfinite([value for member in card["members"] for value in member.values()]).all()


def test_a_step_is_less_certain_than_the_machine() -> None:
    """A sheet does not know the machine, whose factor alone spreads so far; docs/datasheets.md has what is held."""
    assert Machine().device_spread < shipped_fit().step_spread < 2 * Machine().device_spread


def test_peaks_that_no_document_states_follow_the_family() -> None:
    own, alike = named("nvidia-geforce-rtx-4060"), named("nvidia-geforce-rtx-4080")
    assert own.peak("fp16_matrix") is None
    found, theirs = figures_of(own, Precision.FP16).matrix, alike.peak("fp16_matrix")
    assert found
    assert theirs
    assert found / (own.peak("fp32") or 1) == pytest.approx(theirs / (alike.peak("fp32") or 1), rel=0.02)
