"""Goals of fine plans: the shortest round in which classes with separate widths keep a share of the parameters."""

from collections.abc import Callable, Sequence
from math import ceil

from latte_cli.allocator.fine import SHARES, Search
from latte_cli.allocator.goal import Goal, Least, PlanTarget
from latte_cli.allocator.plan import Priced
from latte_cli.allocator.pricing import Pricer, Round
from latte_cli.fleet import Objective

_HALVINGS = 9  # chosen: the duration to 0.2 % of that of one width for all groups


def fine_target(
    goal: Goal,
    priced: Priced,
    parameters: int,
    pricer: Pricer,
    *,
    shares: Sequence[float] = SHARES,
    done: Callable[[int, str], None] = lambda *_: None,
) -> PlanTarget:
    """The shortest rounds that `goal` allows where each class has its own widths, and what each class keeps in them.

    It starts from the target with one width for all groups, which holds too, and halves what is left of the duration.
    A goal of idle time keeps that one. `parameters` are those of the whole model; `done` hears how many durations were
    tried. Raises LatteError as `Goal.target` and `Search` do.
    """
    uniform = goal.target(priced, parameters)
    if goal.idle is not None:
        return uniform
    searches = [Search(pricer, fleet_class, Objective.PARAMETERS, shares) for fleet_class, _ in priced]
    found = [search.best(uniform.duration_s) for search in searches]
    if not _holds(goal, priced, parameters, found):
        return uniform
    taking_part = sum(each is not None for each in found)
    taking = [search for search, each in zip(searches, found, strict=True) if each]
    low_s, high_s = _longest_s([search.shortest() for search in taking]), _longest_s(found)
    for number in range(_HALVINGS):
        tried = [search.best((low_s + high_s) / 2) for search in searches]
        if sum(each is not None for each in tried) == taking_part and _holds(goal, priced, parameters, tried):
            found, high_s = tried, _longest_s(tried)
        else:
            low_s = (low_s + high_s) / 2
        done(number + 1, "")
    return PlanTarget(duration_s=high_s, least=[_least(goal, each, parameters) for each in found], known=found)


def _holds(goal: Goal, priced: Priced, parameters: int, found: Sequence[Round | None]) -> bool:
    """Whether the goal holds where each class trains this."""
    kept = [each.sub_model.parameters if each else 0 for each in found]
    counts = [fleet_class.count for fleet_class, _ in priced]
    mean = sum(count * each for count, each in zip(counts, kept, strict=True)) / sum(counts)
    return min(kept) >= (goal.floor or 0.0) * parameters and mean >= (goal.capacity or 0.0) * parameters


def _least(goal: Goal, found: Round | None, parameters: int) -> Least:
    if found is None:
        return Least()
    return Least(parameters=found.sub_model.parameters if goal.floor is None else ceil(goal.floor * parameters))


def _longest_s(found: Sequence[Round | None]) -> float:
    return max((each.high_s or 0.0 for each in found if each), default=0.0)
