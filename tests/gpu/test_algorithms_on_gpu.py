"""Every algorithm of cuDNN's gives what a convolution in float64 gives, wherever it says that it runs."""

from collections.abc import Iterator

import pytest
import torch
from gpu_convolutions import LAYERS, PHASES, PLAIN, PRECISIONS, Call, Case, bound, cases, convolution
from tally import Tally
from trying_cases import Answer, Trial

from latte_cli.algorithms import known_algorithm
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.native import cudnn
from latte_cli.layers import Convolution, Phase
from latte_cli.measure import Outcome
from latte_cli.precisions import Layout, Precision

REFUSED = (Unsupported, OutOfMemory, Failed, torch.cuda.OutOfMemoryError)
"""What an algorithm that does not run raises."""

USUAL = {
    Phase.FORWARD: {"IMPLICIT_GEMM", "IMPLICIT_PRECOMP_GEMM"},
    Phase.BACKWARD_DATA: {"ALGO_1"},
    Phase.BACKWARD_FILTER: {"ALGO_1"},
}
"""The algorithms that every GPU has."""

LARGE = convolution(32, (64, 64), (56, 56), (3, 3), pad=(1, 1))  # 100,000 terms for each weight's gradient
STRIDED = convolution(16, (64, 128), (57, 57), (5, 5), pad=(2, 2), stride=(2, 2))


@pytest.mark.parametrize("name", LAYERS)
def test_algorithms_give_the_result_in_float64_and_keep_to_their_workspace(
    name: str, trial: Trial, tally: Tally
) -> None:
    wrong: list[str] = []
    checked = 0
    for precision in PRECISIONS:
        for case in cases(LAYERS[name], precision):
            answer = trial.answer(case)
            tally.add(case, answer)
            checked += answer.outcome is Outcome.OK
            if answer.outcome is Outcome.OK and not answer.error <= case.tolerance:
                wrong.append(f"{case}: an error of {answer.error:.1e}, beyond {case.tolerance:.0e}")
            if answer.overrun:
                wrong.append(f"{case}: wrote outside its workspace")
            if not answer.sound:  # a mere refusal at the call is an answer; the device or the process has to survive it
                wrong.append(f"{case}: {answer.detail}")
    assert not wrong, "\n".join([name, *wrong])
    assert checked, f"no algorithm ran {name}"


@pytest.mark.parametrize("phase", PHASES)
def test_the_usual_algorithms_run_a_plain_layer_in_fp32(phase: Phase, trial: Trial) -> None:
    right: set[str] = set()
    answers: dict[str, Answer] = {}
    for case in cases(PLAIN, Precision.FP32):
        if case.phase is phase and case.layout is Layout.NCHW:
            answer = answers[case.algorithm.name] = trial.answer(case)
            if answer.outcome is Outcome.OK and answer.error <= case.tolerance:
                right.add(case.algorithm.name)
    assert right >= USUAL[phase], answers
    assert not [name for name, answer in answers.items() if answer.outcome is Outcome.FAILED], answers


def runnable(library: cudnn.Library, handle: int, layer: Convolution, precision: Precision) -> Iterator[Call]:
    """The calls of a layer that run, having run once."""
    for case in cases(layer, precision):
        try:
            with bound(library, handle, case) as call:
                call.run()
                torch.cuda.synchronize()
                yield call
        except REFUSED:
            continue


@pytest.mark.parametrize("precision", PRECISIONS)
def test_workspaces_of_large_layers_are_enough_and_not_exceeded(
    precision: Precision, library: cudnn.Library, handle: int
) -> None:
    seen = {(call.case, call.workspace.intact) for call in runnable(library, handle, LARGE, precision)}
    assert seen
    assert not [str(case) for case, intact in seen if not intact]


@pytest.mark.parametrize("layer", [LARGE, STRIDED], ids=["large", "strided"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_algorithms_known_as_deterministic_repeat_bit_by_bit(
    precision: Precision, layer: Convolution, library: cudnn.Library, handle: int
) -> None:
    differ: list[str] = []
    checked = 0
    for call in runnable(library, handle, layer, precision):
        about = known_algorithm(call.case.algorithm)
        if about is None or not about.deterministic:
            continue
        results = []
        for _ in range(5):
            call.poison()
            call.run()
            results.append(call.out.clone())
        checked += 1
        if not all(torch.equal(results[0], result) for result in results[1:]):
            differ.append(str(call.case))
    assert not differ, "\n".join(differ)
    assert checked


def test_cudnn_calls_those_algorithms_deterministic_that_we_do(library: cudnn.Library, handle: int) -> None:
    flags: dict[tuple[Phase, str], set[tuple[bool, bool]]] = {}
    layers = [PLAIN, LARGE, STRIDED, LAYERS["5x5"], LAYERS["1x1"], LAYERS["7x7"], LAYERS["2 groups"]]
    for layer in layers:
        for precision in PRECISIONS:
            with cudnn.problem(library, layer, precision, Layout.NCHW) as problem:
                for phase in PHASES:
                    try:
                        found = problem.heuristic(handle, phase)
                    except REFUSED:
                        continue
                    for ranked in found:
                        about = known_algorithm(ranked.algorithm)
                        if ranked.status_ok and about is not None:
                            pair = (ranked.deterministic, about.deterministic)
                            flags.setdefault((phase, ranked.algorithm.name), set()).add(pair)
    differ = {key: pairs for key, pairs in flags.items() if any(theirs != ours for theirs, ours in pairs)}
    assert flags
    assert not differ, f"(cuDNN's flag, ours): {differ}"


def test_what_cudnn_s_heuristic_lists_as_running_does_run(library: cudnn.Library, handle: int) -> None:
    """Its first answer at least: that is the one a framework takes unseen."""
    for phase in PHASES:
        with cudnn.problem(library, PLAIN, Precision.FP32, Layout.NCHW) as problem:
            best = next(ranked for ranked in problem.heuristic(handle, phase) if ranked.status_ok)
        case = Case(layer=PLAIN, phase=phase, algorithm=best.algorithm)
        with bound(library, handle, case) as call:
            call.run()
            torch.cuda.synchronize()
            assert call.error() <= case.tolerance, case
