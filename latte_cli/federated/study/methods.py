"""Methods: how a federation decides what its devices train, and how it puts together what they learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from latte_cli.estimator import LOOKUP
from latte_cli.federated.aggregation import AggregationRule
from latte_cli.fleet import Method as Channels

LEVELS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)  # HeteroFL (Diao et al. 2021), a to e
"""The widths that HeteroFL, FedRolex and FjORD give their devices, and that others here are given by their rule."""


class SubModelSizes(StrEnum):
    """Who decides how large a device's sub-model is.

    `WHOLE`: nobody, all train the whole network. `SMALL`: one small network for all, of a width that is tuned.
    `TIERS`: the device's tier, the largest of `LEVELS` whose FLOPs a device of its peak speed makes in time.
    `ESTIMATES`: LATTE, the largest sub-model whose estimated round meets the round duration.
    """

    WHOLE = "whole"
    SMALL = "small"
    TIERS = "tiers"
    ESTIMATES = "estimates"


class Learning(StrEnum):
    """What devices do with their sub-models.

    `OVERLAP`: they train the channels that a rule names; each number becomes the mean over those that hold it.
    `ORDERED`: each step trains a nested part drawn anew (FjORD). `PRUNED`: each prunes the network to its part
    and keeps it (Hermes, TailorFL). `BUFFERED`: there are no rounds; the server adds what some devices changed as soon
    as they have returned it (FedBuff).
    """

    OVERLAP = "overlap"
    ORDERED = "ordered"
    PRUNED = "pruned"
    BUFFERED = "buffered"


@dataclass(frozen=True, kw_only=True)
class StudyMethod:
    """A method by its parts; `channels` None leaves them to the study's `latte` section, and so `rule` and the recipe.

    `masked` and `scaled` are those of the recipe; in networks without norms, weights are scaled by roots instead (see
    `Federation`). `by_data` prunes what the device's data moved least, rather than the smallest weights, and lets a
    device count by the share that it kept. `proximal` adds FedProx's term to the loss, whose factor is tuned.
    `estimator` is whose times choose the sub-models; the clock's are always those of LOOKUP. One that is not `tuned`
    trains the whole network in rounds as long as LATTE's rule makes them (`paced_duration_s`).
    """

    name: str
    sizes: SubModelSizes
    learning: Learning = Learning.OVERLAP
    channels: Channels | None = Channels.NESTED
    rule: AggregationRule = AggregationRule.EXAMPLES
    masked: bool = False
    scaled: bool = False
    by_data: bool = False
    proximal: bool = False
    estimator: str = LOOKUP
    tuned: bool = True


def _by_name(*methods: StudyMethod) -> Mapping[str, StudyMethod]:
    return {each.name: each for each in methods}


METHODS = _by_name(
    StudyMethod(name="fedavg", sizes=SubModelSizes.WHOLE),
    StudyMethod(name="fedprox", sizes=SubModelSizes.WHOLE, proximal=True),
    StudyMethod(name="fedavg-small", sizes=SubModelSizes.SMALL),
    StudyMethod(name="fedbuff", sizes=SubModelSizes.SMALL, learning=Learning.BUFFERED, rule=AggregationRule.HOLDERS),
    StudyMethod(name="heterofl", sizes=SubModelSizes.TIERS, rule=AggregationRule.HOLDERS, masked=True, scaled=True),
    StudyMethod(
        name="fedrolex",
        sizes=SubModelSizes.TIERS,
        channels=Channels.LOCK_STEP,
        rule=AggregationRule.HOLDERS,
        masked=True,
        scaled=True,
    ),
    StudyMethod(name="fjord", sizes=SubModelSizes.TIERS, learning=Learning.ORDERED),
    StudyMethod(name="hermes", sizes=SubModelSizes.TIERS, learning=Learning.PRUNED, rule=AggregationRule.HOLDERS),
    StudyMethod(
        name="tailorfl", sizes=SubModelSizes.TIERS, learning=Learning.PRUNED, rule=AggregationRule.HOLDERS, by_data=True
    ),
    StudyMethod(name="latte", sizes=SubModelSizes.ESTIMATES, channels=None),
    StudyMethod(name="latte-untuned", sizes=SubModelSizes.ESTIMATES, channels=None, tuned=False),
    StudyMethod(name="latte-by-beta", sizes=SubModelSizes.ESTIMATES, channels=None, estimator="beta"),
    StudyMethod(name="latte-by-flops", sizes=SubModelSizes.ESTIMATES, channels=None, estimator="flops"),
    StudyMethod(
        name="latte+hermes", sizes=SubModelSizes.ESTIMATES, learning=Learning.PRUNED, rule=AggregationRule.HOLDERS
    ),
    StudyMethod(
        name="latte+tailorfl",
        sizes=SubModelSizes.ESTIMATES,
        learning=Learning.PRUNED,
        rule=AggregationRule.HOLDERS,
        by_data=True,
    ),
)
"""The methods by name.

- `fedavg` (McMahan et al., 2017): every device trains the whole network; the mean is weighted by examples.
- `fedprox` (Li et al., 2020): as `fedavg`, with the term mu / 2 · ||w - w0||² in a device's loss, where w0 are the
  parameters that it received and mu is tuned. Partial work, the paper's other half, is the deadline `partial`, which
  every method may have. Ours: the mean is weighted by examples, as `fedavg`'s; the clock takes the term for free.
- `fedavg-small`: as `fedavg` with one small network for all, the usual way out for slow devices.
- `fedbuff` (Nguyen et al., 2022, "Federated Learning with Buffered Asynchronous Aggregation"): nobody waits. As many
  devices as otherwise take part in a round train at any time; whoever is done returns what it changed, and another one
  begins from the server's model of then. Once K have returned, K tuned, the server adds the mean of their changes, each
  times 1 / sqrt(1 + the aggregations that have passed since its device began), and does not count examples. Ours: one
  network for all, whole or small, as tuned; devices are drawn from the deck of the rounds, in which those that train
  are passed over; the server's rate is 1, and its momentum the study's.
- `heterofl` (Diao et al., 2021): the first channels of each layer; the mean over all that hold a number, each class's
  scores over the devices that have examples of it; masked cross-entropy, layers scaled by the share they kept, batch
  norms' statistics estimated anew before evaluating. Ours: levels follow from peak speed and FLOPs, one for a tier; in
  networks without norms, where dividing layers by the share makes narrow levels diverge, weights are used divided by
  the root of the share of the channels that they read, which keeps activations as large as in the whole network.
- `fedrolex` (Alam et al., 2022): as `heterofl`, but the channels are a window that moves by one each round. The errors
  of the authors' code (an inverted test for shuffling, counts that share memory) are not followed.
- `fjord` (Horváth et al., 2021): each step trains the first channels of a width drawn from the levels up to the
  device's; the mean is weighted by examples. Ours: without distillation; momentum goes on in what a step leaves out.
- `hermes`, in the style of Hermes (Li et al., 2021), which has no public code: a device trains the whole network the
  first time, keeps the channels with the largest weights, and trains those from then on. The server averages what at
  least two of a round's devices hold; what one alone holds stays its own. Ours: it prunes at once, to its tier's level,
  instead of step by step as long as its accuracy holds.
- `tailorfl`, in the style of TailorFL (Deng et al., 2022), which has no public code: as `hermes`, but a device keeps
  the channels that its own data moved most (the sum of |weight · change|), and counts in the means by the share of
  channels that it kept, 1 less its pruning rate. Ours: without the server's tuning of sub-models.
- `latte`: the largest sub-model whose estimated round meets the duration; the channels move by device and round (or as
  the study says), the mean is weighted by examples.
- `latte-untuned`: `latte` with nothing tuned: devices get parts of the whole network, they stop in time, and rounds are
  as long as LATTE's rule makes them.
- `latte-by-beta`, `latte-by-flops`: as `latte`, but what a sub-model takes is thought to follow from one rate for each
  algorithm (the paper's), or from FLOPs and one rate for each device.
- `latte+hermes`, `latte+tailorfl`: those two with the sizes that LATTE's estimates allow, within its round durations.
  The first time, when a device trains the whole network to prune it, a round waits for it.
"""
