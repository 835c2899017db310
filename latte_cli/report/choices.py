"""What tuning found: the ways that were tried, and what won."""

from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from latte_cli.report import Format, Table, duration, ratio, write_csv, write_json, write_table
from latte_cli.runtime.choices import Choices, choices_document
from latte_cli.runtime.racing import Race
from latte_cli.runtime.tuning import Tuned


def write_tuned(model: str, found: Tuned, form: Format, out: TextIO | None = None) -> None:
    """Write what each way took next to PyTorch's own, and which one won."""
    ways, race, best = found.ways, found.race, found.best
    if form is Format.JSON:
        write_json(
            {**choices_document([best]), "model": model, "ways": [_way(ways, race, at) for at in range(len(ways))]}, out
        )
    elif form is Format.CSV:
        rows = [tuple(_way(ways, race, at).values()) for at in range(len(ways))]
        write_csv(tuple(_way(ways, race, 0)), rows, out)
    else:
        write_table(_table(model, ways, race, best), out)


def _way(ways: Sequence[Choices], race: Race, at: int) -> dict[str, str | float | None]:
    low, high = race.spread(at)
    return {
        "way": _choices_name(ways[at]),
        "estimated_s": ways[at].chosen_s,
        "measured_s": race.step_s(at),
        "ratio": race.ratio(at),
        "ratio_low": low,
        "ratio_high": high,
        "difference": race.differences[at],
    }


def _choices_name(choices: Choices) -> str:
    layout = [str(choices.layout)] if choices.layout else []
    return " and ".join([*layout, *_algorithms(choices)]) or "PyTorch's own"


def _algorithms(choices: Choices) -> list[str]:
    return [f"{len(choices.bindings)} algorithms"] if choices.bindings else []


def _table(model: str, ways: Sequence[Choices], race: Race, best: Choices) -> Table:
    rows = []
    for at, each in enumerate(ways):
        low, high = race.spread(at)
        between = f"{low:.3f} to {high:.3f}" if at else ""
        shown = duration(each.chosen_s) if each.chosen_s else "-"
        differs = f"{race.differences[at]:.0e}" if at else ""
        rows.append((_choices_name(each), shown, duration(race.step_s(at)), ratio(race.ratio(at)), between, differs))
    counted = Counter(f"{each.algorithm.name} for {each.phase}" for each in best.bindings)
    footer = [f"taken: {_choices_name(best)}"]
    footer += [f"  {name}: {count}" for name, count in counted.most_common()]
    footer += list(best.reasons)
    columns = ("way", ">estimated", ">measured", ">ratio", "half of rounds", ">differs by")
    return Table(title=f"{model}: steps in turn", columns=columns, rows=rows, footer=footer)
