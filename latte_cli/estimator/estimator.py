"""The estimator: a network's calls priced on one device, whoever chooses their algorithms, under any limits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator.calibration import Calibration, calibrate, calibration_pairs, real_steps
from latte_cli.estimator.candidates import known_timings
from latte_cli.estimator.checkpoint_costs import CHECKPOINT_PAIRS, CheckpointCosts, checkpoint_costs
from latte_cli.estimator.compiled import Example, compiled_estimate, paired_passes
from latte_cli.estimator.composition import Row, StepCalls
from latte_cli.estimator.limits import DoesNotFit
from latte_cli.estimator.memory import Memory, memory
from latte_cli.estimator.models import Models, sheet_calibration
from latte_cli.estimator.recomputation import Recomputation
from latte_cli.estimator.records import LOOKUP, Estimate, RealSteps
from latte_cli.estimator.steps import Step, Work, step_calls
from latte_cli.estimator.storages import Storages
from latte_cli.estimator.turned import turned_calls
from latte_cli.estimator.variants import Variants
from latte_cli.estimator.views import uncopied_views
from latte_cli.layers import Optimizer, Phase, Whole
from latte_cli.lookup import Lookup, Pair, Timing
from latte_cli.network import Network, submodules
from latte_cli.network.calibration import calibration_networks
from latte_cli.network.structure import whole_of
from latte_cli.optimizers import measured_name
from latte_cli.precisions import Layout, Precision
from latte_cli.profiles import sheet_of
from latte_cli.store import Store
from latte_cli.strategies import NO_LIMITS, Limits, Strategy, by_name

CALIBRATED = (LOOKUP, "xgboost")
"""The estimators that add up layers as they were measured, and so are compared with whole networks."""


class Estimator:
    """Estimates networks on one device; what was read of the store is kept between networks.

    `threads` None takes whichever number has most rows, `calibration` None that of the device's own rows; `strategy`
    and `limits` are for `estimate`; `rough` is that of Models; `note` hears what takes a while.
    Raises LatteError for an unknown device or strategy.
    """

    def __init__(
        self,
        store: Store,
        slug: str,
        *,
        precision: Precision = Precision.FP32,
        layout: Layout = Layout.NCHW,
        threads: int | None = None,
        strategy: str = "latte",
        estimator: str = LOOKUP,
        limits: Limits = NO_LIMITS,
        calibration: Calibration | None = None,
        rough: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        sheet = sheet_of(store, slug)
        self.device = sheet.device if sheet else store.device(slug)
        self.estimator = estimator
        self._strategy, self._limits = by_name(strategy), limits
        if sheet and sheet.kind.threaded and threads is None:
            threads = sheet.units
        self._lookup = Lookup(
            store, slug, precision=precision, layout=layout, threads=threads, rowless=sheet is not None
        )
        self._models = Models(store, self.device, self._lookup, estimator, note, sheet, rough=rough)
        self._calibration = calibration or (sheet_calibration() if sheet else Calibration())
        self._uncalibrated = calibration is None and estimator in CALIBRATED and sheet is None
        self._checkpoint_costs: CheckpointCosts | None = None

    @property
    def calibration(self) -> Calibration:
        """What the device's rows tell of calls within networks."""
        if self._uncalibrated:
            self._measured_timings(calibration_pairs(self.device.kind))
        return self._calibration

    def estimate(
        self,
        network: Network,
        step: Step | str = "sgd",
        allow_unknown: bool = False,
        *,
        cut_from: Network | None = None,
    ) -> Estimate:
        """Estimate a training step of `network`, or one with the optimizer that `step` names.

        What real steps tell of the network that it was `cut_from` holds for it, too. Raises LatteError for a layer that
        can be neither looked up nor predicted, unless `allow_unknown`, and DoesNotFit.
        """
        return next(self.variants(network, step, allow_unknown, cut_from=cut_from))

    def variants(
        self,
        network: Network,
        step: Step | str = "sgd",
        allow_unknown: bool = False,
        *,
        strategies: Sequence[Strategy] = (),
        limits: Sequence[Limits] = (),
        cut_from: Network | None = None,
    ) -> Iterator[Estimate]:
        """The same step under each of the strategies and, for each, each of the limits; default: the estimator's own.

        A strategy chooses on the same timings each time. Raises as `estimate` does; of several limits those that the
        step does not fit are left out.
        """
        variants = self._step_variants(network, Step(optimizer=step) if isinstance(step, str) else step, cut_from)
        refused: DoesNotFit | None = None
        yielded = 0
        for strategy in strategies or (self._strategy,):
            for one in limits or (self._limits,):
                try:
                    yield variants.estimate(strategy, one, allow_unknown=allow_unknown)
                    yielded += 1
                except DoesNotFit as exc:
                    refused = exc
        if refused and not yielded:
            raise refused

    def compile_estimate(self, eager: Estimate) -> Estimate:
        """`eager`, an estimate of PyTorch's own step, as the step of the same model that `torch.compile` has compiled.

        Raises LatteError where neither runs of the network nor those of calibration networks tell its time.
        """
        own, known = whole_of(eager.network).name, calibration_networks(self.device.kind)
        names = {own, *(whole_of(network).name for _, network in known)}
        timings = self._lookup.of_wholes(names)
        examples = [
            Example(estimate=next(self.variants(network, strategies=(by_name("pytorch"),))), passes=passes)
            for _, network in known
            for passes in paired_passes(timings.get(whole_of(network).name, ()))
            if passes.batch == network.batch_size
        ]
        return compiled_estimate(eager, paired_passes(timings.get(own, ())), examples)

    def with_checkpoints(
        self, network: Network, step: Step, strategy: Strategy, limits: Limits, allow_unknown: bool = False
    ) -> Step:
        """`step` with the checkpoints that cost the least time under the limit of memory, of those a user can write.

        Their price is that of the calls that run again, with the algorithms which the strategy takes where memory does
        not matter, and that of the calls of `torch.utils.checkpoint`, where these were measured. Their memory is
        counted with the workspaces of these algorithms; where nothing is enough then, with the least ones. Raises
        DoesNotFit where nothing is enough at all.
        """
        most, priced = limits.memory_bytes, self._step_variants(network, step)
        found = priced.estimate(strategy, Limits(workspace_bytes=limits.workspace_bytes), allow_unknown=allow_unknown)
        if most is None or found.memory_bytes <= most:
            return step
        candidates, seconds, estimates = submodules.regions(network), self._seconds_again(found), []
        for workspaces in (priced.workspaces(found), priced.least_workspaces()):
            recomputation = Recomputation(
                network,
                step,
                self._lookup.precision,
                candidates=candidates,
                again_s=seconds,
                call_s=self._call_seconds,
                workspaces=workspaces,
                fused=self.device.kind.queued,
            )
            regions = recomputation.cheapest(most)
            if regions is not None:
                chosen = self._step_variants(network, replace(step, checkpoints=(*step.checkpoints, *regions)))
                estimates.append(chosen.estimate(strategy, limits, allow_unknown=allow_unknown))
                if estimates[-1].memory_bytes <= most:
                    return estimates[-1].step  # with less workspace more time is lost, not less
        if not estimates:
            raise DoesNotFit(network, recomputation.least_bytes(), most, checkpointed=True)
        return estimates[-1].step

    def _seconds_again(self, found: Estimate) -> dict[str, float]:
        """What each node's forward call takes, on the slower of the clocks of a device that has two."""
        forward = (part for part in found.parts if part.phase is Phase.FORWARD)
        queued = self.device.kind.queued
        return {part.name: max(part.device_s, part.host_s if queued else 0.0) for part in forward}

    def _call_seconds(self, tensors: int) -> float:
        """What the call of `torch.utils.checkpoint` takes for a region that saves so many; 0 where it is not known."""
        costs = self._checkpoint_costs
        return costs.seconds(tensors, queued=self.device.kind.queued) if costs else 0.0

    def _step_variants(self, network: Network, step: Step, cut_from: Network | None = None) -> Variants:
        if step.cuda_graph and not self.device.kind.captures_graphs:
            raise LatteError(
                f"`{self.device.slug}` runs no CUDA graphs", hint="leave out `--cuda-graph`", exit_code=ExitCode.USAGE
            )
        step.rest.check(self.device, self._lookup.precision, optimizer=step.optimizer, cuda_graph=step.cuda_graph)
        return self._variants(self._step_calls(network, step), run=cut_from or network)

    def _step_calls(self, network: Network, step: Step) -> StepCalls:
        storages = Storages(network)
        works = tuple(map(self._by_measured_name, step_calls(network, step, fused=self.device.kind.queued)))
        return StepCalls(
            network=network,
            step=step,
            works=works,
            memory=memory(network, step, self._lookup.precision, fused=self.device.kind.queued, storages=storages),
            turned=turned_calls(self._lookup, storages, works),
            views=uncopied_views(network, storages),
        )

    def _real_steps(self, network: Network, found: Mapping[Pair, Sequence[Timing]]) -> RealSteps | None:
        """What the steps of `network` at its batch tell, if it was run whole as the framework makes it.

        A GPU's are left out: its host and the device have a clock each, which factors on calls do not tell apart.
        """
        whole = whole_of(network)
        own = {phase: found.get((whole, phase), ()) for phase in whole.phases}
        passes = {phase: each for phase in own for each in own[phase] if each.task.algorithm == FRAMEWORK_DEFAULT}
        if not passes or self.device.kind.queued or self.estimator not in CALIBRATED:
            return None
        alone = self._variants(self._step_calls(network, Step()))
        return real_steps(alone.estimate(by_name("pytorch"), NO_LIMITS, allow_unknown=True), passes)

    def calls(self, network: Network, step: Step, works: Sequence[Work]) -> list[Row]:
        """The rows of `works`, calls of sub-models of `network`, as the estimator's strategy has them run in a step.

        The limit of a call's workspace holds; that of the memory, which is one of whole steps, does not. Raises
        LatteError for what can be neither looked up nor predicted.
        """
        calls = StepCalls(
            network=network,
            step=step,
            works=tuple(map(self._by_measured_name, works)),
            memory=Memory(timeline=()),
            views=uncopied_views(network, Storages(network)),
        )
        limits = Limits(workspace_bytes=self._limits.workspace_bytes)
        return self._variants(calls, run=network).rows(self._strategy, limits)

    def _by_measured_name(self, work: Work) -> Work:
        """A call with its optimizer by the name that it is measured by."""
        if not isinstance(work.layer, Optimizer):
            return work
        name = measured_name(work.layer.function, on_gpu=self.device.kind.own_memory)
        return replace(work, layer=replace(work.layer, function=name))

    def _variants(self, calls: StepCalls, *, run: Network | None = None) -> Variants:
        """Prices `calls`, by real steps of the network `run` too: theirs, or that which theirs was cut from."""
        pairs = tuple(dict.fromkeys(work.pair for work in calls.costly))
        passes = [(whole_of(run), phase) for phase in Whole.phases] if run else []
        found = self._measured_timings(pairs, passes)
        known = known_timings(self._lookup, {pair: found[pair] for pair in pairs if pair in found}, pairs)
        real = self._real_steps(run, found) if run else None
        if real and run:
            real = replace(real, own=whole_of(run) == whole_of(calls.network))
        calls = replace(calls, checkpoint_costs=self._checkpoint_costs)
        return Variants(calls, known, self._models, replace(self._calibration, real_steps=real))

    def _measured_timings(self, pairs: Sequence[Pair], more: Sequence[Pair] = ()) -> dict[Pair, tuple[Timing, ...]]:
        """The measured timings of `pairs`, and of `more` that may be there.

        The first reading brings what checkpoints cost too, and the calibration if it is used and any network was run
        whole: to make its networks takes as long as to read a large one.
        """
        if self._uncalibrated and self._lookup.has_all_rows(pairs) and not self._lookup.has_wholes:
            self._uncalibrated = False
        beside = (*more, *CHECKPOINT_PAIRS, *(calibration_pairs(self.device.kind) if self._uncalibrated else ()))
        found = self._lookup.measured_timings(pairs, beside)
        self._checkpoint_costs = checkpoint_costs(found)
        if self._uncalibrated:
            self._calibration, self._uncalibrated = calibrate(found, self.device.kind), False
        return {pair: found[pair] for pair in (*pairs, *more) if pair in found}
