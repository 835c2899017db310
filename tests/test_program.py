"""Programs, eliminations and moves on tables at random, against every choice of levels there is."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array

from latte_cli.allocator.cells import NO_UPDATE, Cells, CostTable, StepSums
from latte_cli.allocator.elimination import Elimination
from latte_cli.allocator.moves import Neighbourhood
from latte_cli.allocator.program import FEW, Limit, Program
from latte_cli.allocator.upper_ends import UpperEnd

SCOPES = [(0, 1), (1, 2), (0, 3, 4), (3, 4)]


def cells_of(counts, scopes):
    levels = {f"g{at}": tuple(range(1, count + 1)) for at, count in enumerate(counts)}
    return Cells(levels, [[f"g{at}" for at in scope] for scope in scopes])


def random_table(generator, counts, scopes, *, growth=1.0, alone=False):
    """Sums that rise with the levels, by up to `growth` of themselves for each.

    The cells of a group or block err together, and all do by a part; or each of them by itself (`alone`).
    """
    cells = cells_of(counts, scopes)
    amount, own = np.zeros(cells.size), np.zeros(cells.size, dtype=int)
    places = [*map(cells.single, range(len(counts))), *map(cells.block, range(len(scopes)))]
    for number, place in enumerate(places):
        rising = np.indices(place.shape).sum(axis=0) * generator.uniform(0.5, 1.0, place.shape)
        amount[place] = generator.uniform(0.5, 1.5) * (1 + growth * rising)
        own[place] = place if alone else number
    rows, columns = np.arange(cells.size), 2 + own.max()
    values, together = [0.3 * amount, (0.0 if alone else 0.2) * amount], [1 + own, 0 * own]
    halves = csr_array((np.concatenate(values), (np.tile(rows, 2), np.concatenate(together))), (cells.size, columns))
    return CostTable(
        cells=cells,
        constant=StepSums(seconds=0.3, parameters=5.0, halves_s=np.full(columns, 0.0 if alone else 0.01)),
        amounts=np.stack([amount, 100 * amount], axis=1),
        halves_s=halves,
        shares=generator.uniform(0.2, 1.0, columns),
        update=NO_UPDATE,
    )


def every(cells):
    return np.array(list(product(*map(range, cells.counts))))


@pytest.mark.parametrize("seed", range(6))
def test_an_elimination_finds_the_most_of_all_choices(seed):
    generator = np.random.default_rng(seed)
    cells = cells_of([3, 4, 2, 3, 2], SCOPES)
    value = generator.normal(size=cells.size)
    found = Elimination(cells).best(value, np.zeros(5, dtype=np.int64))
    assert value[cells.of(found)].sum() == pytest.approx(value[cells.of(every(cells))].sum(axis=1).max())


def test_where_a_table_would_be_too_large_a_group_keeps_its_level():
    generator = np.random.default_rng(0)
    cells = cells_of([3] * 4, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    value = generator.normal(size=cells.size)
    here = np.array([1, 2, 0, 1])
    found = Elimination(cells, largest=27).best(value, here)
    kept = np.flatnonzero(found == here)
    choices = every(cells)
    bound = max(value[cells.of(choices[choices[:, at] == here[at]])].sum(axis=1).max() for at in kept)
    assert len(kept)
    assert value[cells.of(found)].sum() == pytest.approx(bound)


@pytest.mark.parametrize("seed", range(4))
def test_moves_change_sums_as_the_table_does(seed):
    generator = np.random.default_rng(seed)
    table = random_table(generator, [3, 4, 2, 3, 2], SCOPES)
    cells, chosen = table.cells, np.array([1, 2, 0, 1, 1])
    neighbourhood = Neighbourhood(cells)
    sums = table.at(chosen)
    moves = neighbourhood.moves(chosen, table.amounts, table.halves_s, sums.halves_s, table.shares)
    before = table.shares @ sums.halves_s**2
    reached = set()
    for ends, linear, squares in zip(moves.ends, moves.linear, moves.squares, strict=True):
        after = neighbourhood.levels(chosen, ends)
        reached.add(tuple(after.tolist()))
        there = table.at(after)
        assert linear == pytest.approx([there.seconds - sums.seconds, there.parameters - sums.parameters])
        assert squares == pytest.approx(table.shares @ there.halves_s**2 - before)
    choices = every(cells)
    assert reached == set(map(tuple, choices[np.isin((choices != chosen).sum(axis=1), (1, 2))].tolist()))


def program_of(table, duration_share, limits=()):
    cells = table.cells
    value = np.zeros(cells.size)
    for group in range(len(cells.counts)):
        value[cells.single(group)] = np.log((1 + np.arange(cells.counts[group])) / cells.counts[group])
    program = Program(
        table=table,
        elimination=Elimination(cells),
        neighbourhood=Neighbourhood(cells),
        upper=UpperEnd(common=0.1),
        value=value,
        duration_s=1.0,
        steps=3,
        parameter_s=1e-4,
        fixed_s=0.1,
        limits=limits,
    )
    least_s, most_s = program.rounds_s(np.stack([cells.counts * 0, cells.counts - 1]))
    return value, replace(program, duration_s=float(least_s + duration_share * (most_s - least_s)))


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("counts", [[3, 4, 2, 3, 2], [8, 8, 8, 8, 8]])
def test_a_program_finds_nearly_the_best_of_all_choices(counts, share, limited):
    generator = np.random.default_rng(len(counts))
    table = random_table(generator, counts, SCOPES)
    choices = every(table.cells)
    of_limit = generator.uniform(0.0, 1.0, table.cells.size) * table.amounts[:, 0]
    sums = of_limit[table.cells.of(choices)].sum(axis=1)
    limits = (Limit(cells=of_limit, most=float(np.quantile(sums, 0.4))),) if limited else ()
    value, program = program_of(table, share, limits)
    meeting = choices[program.rounds_s(choices) <= program.duration_s]
    if limited:
        meeting = meeting[of_limit[table.cells.of(meeting)].sum(axis=1) <= limits[0].most]
    best = value[table.cells.of(meeting)].sum(axis=1).max()
    found = program.best(np.zeros(5, dtype=np.int64), climbs=10)
    assert tuple(found.tolist()) in set(map(tuple, meeting.tolist()))
    short = 1e-9 if len(choices) <= FEW else 0.005
    assert value[table.cells.of(found)].sum() >= best - short * abs(best)


def test_levels_that_are_excluded_are_not_found():
    table = random_table(np.random.default_rng(0), [3, 4, 2, 3, 2], SCOPES)
    _, program = program_of(table, 0.5)
    first = program.best(np.zeros(5, dtype=np.int64))
    other = replace(program, excluded=frozenset([tuple(first.tolist())]))
    assert tuple(other.best(first).tolist()) != tuple(first.tolist())


@pytest.mark.parametrize("counts", [[3, 4, 2, 3, 2], [8, 8, 8, 8, 8]])
def test_the_shortest_round_of_all_choices_is_found(counts):
    table = random_table(np.random.default_rng(1), counts, SCOPES)
    _, program = program_of(table, 0.5)
    found = program.shortest(table.cells.counts - 1)
    assert program.rounds_s(found[None])[0] == pytest.approx(program.rounds_s(every(table.cells)).min(), rel=1e-3)
