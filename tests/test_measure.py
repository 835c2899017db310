"""Measuring: what is sampled, kept, cut and marked, from recorded times."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

import pytest

from latte_cli.algorithms import FRAMEWORK_DEFAULT, HEURISTIC, Algorithm
from latte_cli.backends.contract import Conditions, Facts, Failed, OutOfMemory, Sample, Unsupported
from latte_cli.devices import CPU, CUDA, Device, Sampling
from latte_cli.layers import Layer, Linear, Phase
from latte_cli.measure import DriftMonitor, Evidence, Measurement, Outcome, QualityFlag, measure, spread
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Question, Settings, Task

TASK = Task(
    layer=Linear(rows=8, in_features=64, out_features=10),
    phase=Phase.FORWARD,
    algorithm=FRAMEWORK_DEFAULT,
    settings=Settings(threads=2),
)


class Recorded:
    """A device that plays recorded times back: what a backend is to the measuring code."""

    def __init__(
        self, times_s: Sequence[float], *, disturbed: Sequence[int] = (), fails: Exception | None = None
    ) -> None:
        self.device = Device(slug="recorded", kind=CPU, name="recorded")
        self.cache_state, self.sound = "played back", True
        self.fails, self.calls = fails, 0
        self._times_s, self._disturbed = times_s, disturbed

    def settings(self, precision: Precision, layout: Layout) -> Settings:
        return TASK.settings

    def candidates(self, layer: Layer, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
        return (FRAMEWORK_DEFAULT,)

    def prepare(self, task: Task) -> "Recorded":
        if self.fails is not None:
            raise self.fails
        return self

    def ranking(self, question: Question) -> tuple[str, ...]:
        if self.fails is not None:
            raise self.fails
        return ("WINOGRAD_NONFUSED", "IMPLICIT_GEMM")

    def samples(self, count: int) -> list[Sample]:
        return [self._sample() for _ in range(count)]

    def _sample(self) -> Sample:
        index = min(self.calls, len(self._times_s) - 1)
        self.calls += 1
        return Sample(
            device_s=self._times_s[index], host_s=self._times_s[index] + 1e-6, disturbed=index in self._disturbed
        )

    def facts(self) -> Facts:
        return Facts(workspace_bytes=4096, deterministic=False, kernels=("gemm",))

    def reference(self) -> Sample:
        return Sample(device_s=1e-3, host_s=1e-3)

    def conditions(self) -> Conditions:
        return Conditions(load=0.0)

    def settle(self, limit_s: float) -> bool:
        return True


def row(backend: Recorded, **more: float | int | None) -> Measurement:
    return measure(backend, TASK, plan=Sampling(), monitor=DriftMonitor(), clock=lambda: 5.0, **more)  # type: ignore[arg-type]


def test_the_first_call_warms_up_and_is_not_kept() -> None:
    measured = row(Recorded([0.9, 0.03, 0.03, 0.03]))
    assert measured.outcome is Outcome.OK
    assert measured.device_times_s == (0.03, 0.03, 0.03)
    assert measured.host_times_s == (0.030001, 0.030001, 0.030001)
    assert measured.flags == ()
    assert measured.measured_at == 5.0


def test_short_calls_are_sampled_more_often_than_long_ones() -> None:
    assert len(row(Recorded([1e-4])).device_times_s) == 6
    assert len(row(Recorded([1e-1])).device_times_s) == 3


def test_disturbed_samples_are_replaced() -> None:
    measured = row(Recorded([1e-3, 1e-3, 9e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3], disturbed=[2]))
    assert 9e-3 not in measured.device_times_s
    assert QualityFlag.DISTURBED not in measured.flags


def test_a_row_of_disturbed_samples_only_says_so_and_keeps_them() -> None:
    measured = row(Recorded([1e-3], disturbed=range(100)))
    assert QualityFlag.DISTURBED in measured.flags
    assert measured.device_times_s


def test_an_algorithm_far_behind_the_best_is_cut_and_says_so() -> None:
    backend = Recorded([0.1])
    measured = row(backend, best_s=0.01)
    assert measured.flags == (QualityFlag.CUT,)
    assert measured.device_times_s == (0.1,)
    assert measured.workspace_bytes is None
    assert backend.calls == 1


def test_a_slow_first_call_alone_does_not_cut() -> None:
    measured = row(Recorded([0.04, 0.001]), best_s=0.001)
    assert QualityFlag.CUT not in measured.flags
    assert len(measured.device_times_s) == 6


def test_scattered_samples_are_marked_as_noisy() -> None:
    assert QualityFlag.NOISY in row(Recorded([1e-3, 1e-3, 3e-3, 1e-3, 3e-3, 1e-3, 3e-3])).flags


def test_a_reference_kernel_off_its_median_marks_the_drift() -> None:
    backend, now = Recorded([1e-3]), iter(range(100))
    monitor = DriftMonitor(every_s=1.0, clock=lambda: float(next(now)))
    assert [monitor.drift(backend) for _ in range(3)] == [1.0, 1.0, 1.0]
    backend.reference = lambda: Sample(device_s=2e-3, host_s=2e-3)  # type: ignore[method-assign]
    measured = measure(backend, TASK, plan=Sampling(), monitor=monitor)
    assert measured.drift == 2.0
    assert QualityFlag.DRIFTED in measured.flags


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Unsupported("not for groups"), Outcome.UNSUPPORTED),
        (OutOfMemory("12 GiB"), Outcome.OUT_OF_MEMORY),
        (Failed("an illegal memory access"), Outcome.FAILED),
    ],
)
def test_a_refusal_is_a_row_with_the_library_s_own_word(error: Exception, outcome: Outcome) -> None:
    measured = row(Recorded([1.0], fails=error))
    assert (measured.outcome, measured.detail, measured.seconds) == (outcome, str(error), None)


def test_facts_are_looked_at_in_the_first_pass_only() -> None:
    first, second = row(Recorded([1e-3])), row(Recorded([1e-3]), sweep_pass=1)
    assert (first.workspace_bytes, first.deterministic, first.kernels) == (4096, False, ("gemm",))
    assert (second.workspace_bytes, second.deterministic, second.kernels) == (None, None, ())
    assert first.cache_state == second.cache_state == "played back"


GPU = CUDA.sampling


def test_a_steady_kernel_on_a_gpu_is_sampled_as_little_as_allowed() -> None:
    backend = Recorded([9e-3, 2e-3, *[1e-3] * 200])
    measured = measure(backend, TASK, plan=GPU, monitor=DriftMonitor())
    assert measured.device_times_s == (1e-3,) * GPU.least
    assert backend.calls == GPU.warm_ups + GPU.least


def test_a_scattered_kernel_is_sampled_until_its_mean_is_known() -> None:
    scattered = [1e-3, 1.08e-3, 0.94e-3, 1.02e-3] * 50
    kept = measure(Recorded(scattered), TASK, plan=GPU, monitor=DriftMonitor()).device_times_s
    cv = stdev(kept) / fmean(kept)
    assert GPU.least < len(kept) < GPU.most
    assert 1.96 * cv / sqrt(len(kept)) <= 1.1 * GPU.confidence


def test_wild_and_long_kernels_end_at_the_limits() -> None:
    wild = measure(Recorded([1e-4, 1e-4, *[1e-4, 9e-4] * 100]), TASK, plan=GPU, monitor=DriftMonitor())
    assert len(wild.device_times_s) == GPU.most
    long = measure(Recorded([0.4]), TASK, plan=GPU, monitor=DriftMonitor())
    assert len(long.device_times_s) == GPU.least


def test_spoiled_samples_are_repeated_and_left_out() -> None:
    measured = measure(Recorded([1e-3] * 99, disturbed=[2, 3]), TASK, plan=GPU, monitor=DriftMonitor())
    assert measured.device_times_s == (1e-3,) * GPU.least
    assert QualityFlag.DISTURBED not in measured.flags


def test_a_library_s_own_answer_is_a_row_without_times() -> None:
    question = Question(layer=TASK.layer, phase=TASK.phase, ranker=HEURISTIC, settings=TASK.settings)
    measured = measure(Recorded([]), question, plan=GPU, monitor=DriftMonitor())
    assert (measured.outcome, measured.evidence, measured.seconds) == (Outcome.OK, Evidence.LABEL, None)
    assert measured.ranking == ("WINOGRAD_NONFUSED", "IMPLICIT_GEMM")
    refused = measure(Recorded([], fails=Unsupported("no")), question, plan=GPU, monitor=DriftMonitor())
    assert (refused.outcome, refused.ranking, refused.detail) == (Outcome.UNSUPPORTED, (), "no")


def test_spread_is_half_the_interquartile_range_over_the_median() -> None:
    assert spread((1.0, 2.0, 3.0, 4.0, 5.0)) == pytest.approx(1.0 / 3.0)
    assert spread((1.0, 2.0)) == 0.0
