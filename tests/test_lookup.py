from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
from made_rows import DEVICE, GEMM, SETTINGS, convolution, measurement, network, profile, seconds, tasks, write

from latte_cli.algorithms import ENGINE_LISTS, FRAMEWORK_DEFAULT, HEURISTIC, LISTED
from latte_cli.backends.host import cpu_slug
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Activation, Convolution, Elementwise, Linear, Optimizer, Phase
from latte_cli.lookup import Lookup, NotProfiled, Source, combine_passes
from latte_cli.measure import Evidence, Measurement, Outcome, QualityFlag
from latte_cli.precisions import Layout, Precision
from latte_cli.profiles import resolve_profile as meant
from latte_cli.store import open_store
from latte_cli.tasks import Question, Task

LAYER = convolution(8, 16, 32, 16)
FORWARD = Task(layer=LAYER, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=SETTINGS)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"), shipped=False)


def lookup(store, **wish):
    given = {"precision": Precision.FP32, "layout": Layout.NCHW} | wish
    return Lookup(store, DEVICE.slug, **given)


def test_passes_are_combined_as_the_median_of_their_medians():
    rows = [measurement(FORWARD, time_s=time_s, sweep_pass=index) for index, time_s in enumerate((1.0, 9.0, 1.2))]
    [timing] = combine_passes(rows)
    assert timing.device_s == 1.2
    assert timing.low_s < 1.0 < 1.2 < timing.high_s


def test_an_interval_has_a_floor_and_widens_with_the_spread_between_passes():
    [calm] = combine_passes([measurement(FORWARD, time_s=1.0, sweep_pass=index) for index in range(3)])
    [wild] = combine_passes([measurement(FORWARD, time_s=exp(0.2 * index), sweep_pass=index) for index in range(3)])
    assert log(calm.high_s / calm.device_s) == pytest.approx(1.96 * 0.03)
    assert log(wild.high_s / wild.device_s) == pytest.approx(1.96 * 0.2, rel=0.02)


def test_what_did_not_run_has_no_timing():
    failed = replace(measurement(FORWARD), outcome=Outcome.UNSUPPORTED, device_times_s=(), host_times_s=())
    assert combine_passes([failed]) == []


def test_a_timing_is_noisy_only_if_every_pass_was():
    rows = [measurement(FORWARD, sweep_pass=0, flags=(QualityFlag.NOISY,)), measurement(FORWARD, sweep_pass=1)]
    assert not combine_passes(rows)[0].noisy
    assert combine_passes(rows[:1])[0].noisy


def test_a_measured_layer_is_found_with_all_its_algorithms(store):
    profile(store, [LAYER])
    found = lookup(store).measured_timings([(LAYER, Phase.FORWARD), (convolution(9, 16, 32, 16), Phase.FORWARD)])
    assert {timing.task.algorithm for timing in found.pop((LAYER, Phase.FORWARD))} == {FRAMEWORK_DEFAULT, GEMM}
    assert not found


def test_rows_of_other_settings_are_not_mixed_in(store):
    profile(store, [LAYER])
    profile(store, [LAYER], replace(SETTINGS, layout=Layout.CHANNELS_LAST))
    profile(store, [LAYER], replace(SETTINGS, precision=Precision.BF16))
    found = lookup(store).measured_timings([(LAYER, Phase.FORWARD)])[LAYER, Phase.FORWARD]
    assert {timing.task.settings for timing in found} == {SETTINGS}


def test_the_number_of_threads_with_most_rows_is_taken_if_none_is_named(store):
    one = replace(SETTINGS, threads=1)
    profile(store, [LAYER, convolution(1, 3, 8, 8)])
    profile(store, [LAYER], one)
    pairs = [(LAYER, Phase.FORWARD), (convolution(1, 3, 8, 8), Phase.FORWARD)]
    assert {t.task.settings for found in lookup(store).measured_timings(pairs).values() for t in found} == {SETTINGS}
    assert {t.task.settings for t in lookup(store, threads=1).measured_timings(pairs)[pairs[0]]} == {one}


def test_of_several_library_versions_the_newest_measured_is_taken(store):
    newer = replace(SETTINGS, library_versions=(("torch", "2.14.0"),))
    write(store, [measurement(task, measured_at=1.0) for task in tasks([LAYER])])
    write(store, [measurement(task, measured_at=2.0) for task in tasks([LAYER], newer)])
    found = lookup(store)
    [timings] = found.measured_timings([(LAYER, Phase.FORWARD)]).values()
    assert {timing.task.settings for timing in timings} == {newer}
    assert found.settings() == newer
    assert len(found.versions()) == 2


def test_settings_without_any_row_are_an_error_that_says_what_there_is(store):
    profile(store, [LAYER])
    with pytest.raises(NotProfiled, match="no rows in bf16 nchw") as caught:
        lookup(store, precision=Precision.BF16).measured_timings([(LAYER, Phase.FORWARD)])
    assert "fp32 nchw with 2 threads" in (caught.value.hint or "")


def test_a_layer_without_spatial_dimensions_is_found_in_any_layout(store):
    linear = Linear(rows=8, in_features=16, out_features=4)
    profile(store, [LAYER], replace(SETTINGS, layout=Layout.CHANNELS_LAST))
    profile(store, [linear])
    pairs = [(LAYER, Phase.FORWARD), (linear, Phase.FORWARD)]
    assert set(lookup(store, layout=Layout.CHANNELS_LAST).measured_timings(pairs)) == set(pairs)


def test_layers_asked_for_later_are_found_too(store):
    profile(store, network().layers)
    found = lookup(store)
    assert found.measured_timings([(LAYER, Phase.FORWARD)])
    relu = (Activation(shape=(8, 16, 32, 32), function="relu"), Phase.BACKWARD)
    assert found.measured_timings([relu])[relu]


@pytest.mark.parametrize(
    ("below", "wanted", "above"),
    [
        (convolution(4, 16, 32, 16), LAYER, convolution(16, 16, 32, 16)),
        (convolution(8, 8, 32, 16), LAYER, convolution(8, 24, 32, 16)),
        (convolution(8, 16, 16, 16), LAYER, convolution(8, 16, 48, 16)),
        tuple(
            Convolution(batch=1, in_channels=c, out_channels=c, groups=c, input=(8, 8), kernel=(3, 3))
            for c in (16, 24, 32)
        ),
        tuple(Elementwise(operation="add", shapes=((n, 8, 4, 4), (n, 8, 4, 4))) for n in (1, 2, 4)),
        tuple(Linear(rows=n, in_features=64, out_features=10) for n in (4, 8, 32)),
        tuple(Optimizer(function="sgd", tensors=9, elements=n) for n in (10**5, 3 * 10**5, 5 * 10**5)),
    ],
)
def test_a_layer_between_two_that_differ_in_one_size_is_interpolated(store, below, wanted, above):
    profile(store, [below, above])
    phase = wanted.phases[0]
    found = {timing.task.algorithm: timing for timing in lookup(store).interpolate((wanted, phase))}
    timing = found[FRAMEWORK_DEFAULT]
    assert timing.source is Source.INTERPOLATED
    assert timing.task.layer == wanted
    assert timing.device_s == pytest.approx(seconds(timing.task), rel=0.1)
    assert timing.low_s < timing.device_s < timing.high_s


@pytest.mark.parametrize(
    "others",
    [
        (convolution(16, 16, 32, 16), convolution(32, 16, 32, 16)),  # both above
        (convolution(4, 16, 32, 16), convolution(16, 24, 32, 16)),  # two sizes differ
        (convolution(4, 16, 32, 16, kernel=1), convolution(16, 16, 32, 16, kernel=1)),  # another kernel
        (convolution(1, 16, 32, 16), convolution(64, 16, 32, 16)),  # too far apart
    ],
)
def test_nothing_is_interpolated_without_a_bracket_along_one_size(store, others):
    profile(store, others)
    assert lookup(store).interpolate((LAYER, Phase.FORWARD)) == ()


def test_the_narrowest_bracket_is_used(store):
    rows = [measurement(task, time_s=1.0) for task in tasks([convolution(n, 16, 32, 16) for n in (4, 16)])]
    rows += [measurement(task, time_s=5.0) for task in tasks([convolution(8, c, 32, 16) for c in (14, 18)])]
    write(store, rows)
    assert all(t.device_s == pytest.approx(5.0) for t in lookup(store).interpolate((LAYER, Phase.FORWARD)))


def answered(question, names):
    return Measurement(task=question, device=DEVICE, evidence=Evidence.LABEL, ranking=names)


def test_where_the_library_was_not_asked_its_usual_ranking_stands_for_its_answer(store):
    asked = [convolution(1, 16, 16, size) for size in (8, 16, 32)]
    answers = [("a", "b", "c"), ("a", "c"), ("b", "a", "c")]
    rows = [
        answered(Question(layer=layer, phase=Phase.FORWARD, ranker=LISTED, settings=SETTINGS), answer)
        for layer, answer in zip(asked, answers, strict=True)
    ]
    write(store, rows)
    profile(store, [*asked, convolution(1, 16, 16, 12)])
    found = lookup(store)
    found.everything()
    own, new = (asked[2], Phase.FORWARD), (convolution(1, 16, 16, 12), Phase.FORWARD)
    assert found.rankings([own, new, (own[0], Phase.BACKWARD_DATA)]) == {
        own: ("b", "a", "c"),
        new: ("a", "b", "c"),
        (own[0], Phase.BACKWARD_DATA): (),
    }


def test_what_cudnn_s_heuristics_list_is_kept_apart_from_its_ranking_of_named_algorithms(store):
    pair = (convolution(1, 16, 16, 8), Phase.FORWARD)
    answers = {HEURISTIC: ("FFT",), ENGINE_LISTS[0]: ("ENGINE_3", "ENGINE_1"), ENGINE_LISTS[2]: ("ENGINE_1",)}
    rows = [
        answered(Question(layer=pair[0], phase=pair[1], ranker=ranker, settings=SETTINGS), names)
        for ranker, names in answers.items()
    ]
    write(store, rows)
    profile(store, [pair[0]])
    found = lookup(store)
    found.everything()
    assert found.rankings([pair]) == {pair: ("FFT",)}
    assert found.engine_lists([pair]) == {pair: {"INSTANT": ("ENGINE_3", "ENGINE_1"), "B": ("ENGINE_1",)}}
    assert found.engine_lists([(pair[0], Phase.BACKWARD_DATA)]) == {}


def test_the_algorithms_that_ran_layers_of_a_sort_are_known(store):
    profile(store, [LAYER])
    found = lookup(store)
    assert found.run_before((convolution(3, 5, 7, 9), Phase.FORWARD)) == {FRAMEWORK_DEFAULT, GEMM}
    assert found.run_before((convolution(3, 5, 7, 9, kernel=1), Phase.FORWARD)) == set()


def machine(store, slug):
    device = replace(DEVICE, slug=slug)
    write(store, [replace(measurement(FORWARD), device=device)])


def test_no_device_means_this_machine(store):
    machine(store, cpu_slug(name="lab"))
    machine(store, DEVICE.slug)
    machine(store, cpu_slug())
    assert meant(store) == meant(store, "cpu") == meant(store, "auto") == cpu_slug()


def test_a_profile_with_a_fleet_name_is_this_machines_too(store):
    machine(store, cpu_slug(name="lab"))
    assert meant(store) == meant(store, "lab") == cpu_slug(name="lab")


def test_threads_choose_among_this_machines_profiles(store):
    machine(store, cpu_slug(1))
    assert meant(store) == meant(store, "cpu", threads=1) == cpu_slug(1)
    with pytest.raises(LatteError, match="with 999 threads"):
        meant(store, "cpu", threads=999)


def test_several_profiles_of_this_machine_are_told_apart_by_their_names(store):
    machine(store, cpu_slug(name="one"))
    machine(store, cpu_slug(name="two"))
    with pytest.raises(LatteError, match="`this machine` may be 2 devices") as caught:
        meant(store)
    assert cpu_slug(name="two") in (caught.value.hint or "")
    assert meant(store, "two") == cpu_slug(name="two")


def test_without_a_profile_of_this_machine_the_error_says_which_there_are_and_how_to_make_one(store):
    machine(store, DEVICE.slug)
    with pytest.raises(LatteError, match="no profile of this machine") as caught:
        meant(store)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert DEVICE.slug in (caught.value.hint or "")
    assert "latte profile --budget 2m" in (caught.value.hint or "")


def test_an_unknown_device_gets_a_near_match(store):
    machine(store, DEVICE.slug)
    with pytest.raises(LatteError, match="unknown device") as caught:
        meant(store, "made-up-cpu-2c-3t")
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert DEVICE.slug in (caught.value.hint or "")


def test_a_beginning_that_fits_several_devices_is_an_error(store):
    machine(store, "lab-one")
    machine(store, "lab-two")
    with pytest.raises(LatteError, match="`lab` may be 2 devices"):
        meant(store, "lab")


def test_a_gpu_of_this_machine_needs_a_profile_of_its_own(store):
    machine(store, cpu_slug())
    machine(store, "lab-nvidia-h200")
    for device in ("cuda", "cuda:7"):
        with pytest.raises(LatteError, match="no profile of this machine's GPU") as caught:
            meant(store, device)
        assert "latte profile --device cuda" in (caught.value.hint or "")
    assert meant(store, "lab") == "lab-nvidia-h200"


def test_the_same_parts_are_read_once_and_others_are_read_anew(store):
    profile(store, [LAYER])
    before = lookup(store).everything()
    assert lookup(open_store(store.uri, shipped=False), precision=Precision.BF16).everything() is before
    profile(store, [convolution(1, 16, 16, 12)])
    after = lookup(store).everything()
    assert {timing.task.layer for timing in after} == {LAYER, convolution(1, 16, 16, 12)}


def test_rows_that_were_read_without_a_damaged_part_are_read_again(store):
    profile(store, [LAYER])
    profile(store, [convolution(1, 16, 16, 12)])
    part = min(Path(store.uri).glob("*/*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert lookup(open_store(store.uri, shipped=False, skip=lambda error: None)).everything()
    with pytest.raises(LatteError, match=part.name):
        lookup(store).everything()


def test_words_that_only_one_profile_has_name_it(store):
    for slug in ("nvidia-h200-reference", "nvidia-a100-sxm4", "lab-amd-epyc-2c-4t"):
        machine(store, slug)
    assert meant(store, "H200") == "nvidia-h200-reference"
    assert meant(store, "amd-epyc") == "lab-amd-epyc-2c-4t"
    for device in ("h20", "epyc-2", "100", ""):
        with pytest.raises(LatteError, match="unknown device"):
            meant(store, device)
    with pytest.raises(LatteError, match="`nvidia` may be 2 devices") as caught:
        meant(store, "nvidia")
    assert "nvidia-a100-sxm4" in (caught.value.hint or "")
