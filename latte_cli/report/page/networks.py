"""A network's part of a page: strategies side by side, modules as boxes, what choices save, and every call."""

from collections import Counter
from collections.abc import Iterator, Sequence

from latte_cli.estimator import BESIDE, Estimate, LayerTime, doubts_of
from latte_cli.report import duration, percent, pictures, size
from latte_cli.report.estimate_tables import equal_line
from latte_cli.report.estimates import left_out_line
from latte_cli.report.page.modules import module_boxes
from latte_cli.report.page.parts import Column, Icicle, Picture, Rows, Section, SortedCell, text_cell

_MANY_ROWS = 30  # chosen: a longer table is folded, so that what comes after it is found


def network_section(estimates: Sequence[Estimate], at: int) -> Section:
    """A network on one device: strategies side by side, and the layers of the first."""
    first = estimates[0]
    network, settings = first.network, first.settings
    threads = f", {settings.threads} threads" if settings.threads else ""
    facts = [
        ("batch size", str(network.batch_size)),
        ("parameters", f"{network.parameters:,}"),
        ("settings", f"{settings.precision} {settings.layout}{threads}, {first.optimizer}"),
        (
            "step",
            f"{duration(first.step_s)}, 95 % between {duration(first.step_low_s)} and {duration(first.step_high_s)}",
        ),
        ("forward", duration(first.forward_s)),
        ("backward", duration(first.backward_s)),
        ("memory", size(first.memory_bytes)),
    ]
    name, equal = f"network{at}", equal_line(estimates)
    shown = [
        *([] if equal else [_strategies_picture(estimates, name)]),
        Picture(
            name=f"{name}-layers",
            title=f"Where the time goes ({first.strategy})",
            description="The layers that take most, in the order of the network, forward and backward stacked. "
            "x 4 means four equal layers of a module. The table of calls lists each of them.",
            figure=pictures.layers_figure(first),
        ),
        Picture(
            name=f"{name}-memory",
            title="What the step holds in memory",
            description=f"Memory call by call; the peak is {size(first.memory_bytes)}.",
            figure=pictures.memory_figure(first),
        ),
    ]
    return Section(
        title=f"{network.name} on {first.device.slug}",
        anchor=name,
        facts=facts,
        notes=[*doubts_of(first, estimates[1:]), *left_out_line(estimates), *map(_sentence, equal)],
        pictures=shown,
        icicles=[_icicle(first)],
        tables=[_strategies_table(estimates), *_choices_tables(estimates), _modules_table(first), _layers_table(first)],
    )


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def _strategies_picture(estimates: Sequence[Estimate], name: str) -> Picture:
    steps = ", ".join(f"{each.strategy} {duration(each.step_s)}" for each in estimates)
    return Picture(
        name=f"{name}-strategies",
        title="A step under each strategy",
        description=f"A bar for each strategy, stacked by forward, backward, loss and update: {steps}.",
        figure=pictures.strategies_figure(estimates),
    )


def _strategies_table(estimates: Sequence[Estimate]) -> Rows:
    titles = ("forward", "backward", "update", "step", "memory")
    columns = [Column(title="strategy"), *(Column(title=title, number=True) for title in titles)]
    rows = [
        [
            text_cell(each.strategy),
            *(
                SortedCell(shown=duration(seconds), value=seconds)
                for seconds in (each.forward_s, each.backward_s, each.update_s, each.step_s)
            ),
            SortedCell(shown=size(each.memory_bytes), value=each.memory_bytes),
        ]
        for each in estimates
    ]
    return Rows(caption="Strategies", columns=columns, rows=rows)


def _layers_table(estimate: Estimate) -> Rows:
    columns = [
        Column(title="layer"),
        Column(title="time", number=True),
        *(Column(title=title) for title in ("phase", "algorithm")),
        *(Column(title=title, number=True) for title in ("of the step", "workspace")),
        *(Column(title=title) for title in ("kind", "known from")),
    ]
    total_s = sum(part.count * part.device_s for part in estimate.parts) or 1.0
    rows = []
    for part in estimate.parts:
        spent_s = part.count * part.device_s
        if not spent_s and part.name not in BESIDE:
            continue
        rows.append(
            [
                text_cell(part.name),
                SortedCell(shown=duration(spent_s), value=spent_s),
                text_cell(part.stage.replace("_", " ")),
                text_cell(part.algorithm.name),
                SortedCell(shown=percent(spent_s / total_s), value=spent_s / total_s),
                SortedCell(shown=size(part.workspace_bytes), value=part.workspace_bytes or 0),
                text_cell(part.layer.kind),
                text_cell(part.source),
            ]
        )
    caption = f"Calls of a step ({estimate.strategy})"
    return Rows(caption=caption, columns=columns, rows=rows, folded=len(rows) > _MANY_ROWS)


def _icicle(estimate: Estimate) -> Icicle:
    root = module_boxes(estimate)
    largest = sorted(root.boxes, key=lambda box: -box.share)[:3]
    most = ", ".join(f"{box.name} {percent(box.share)}" for box in largest)
    return Icicle(
        title=f"The step by module ({estimate.strategy})",
        description=f"A box is as wide as its module's share of all calls, and hangs from the module that holds it. "
        f"Most take {most}. The table of modules below has the numbers.",
        root=root,
    )


def _modules_table(estimate: Estimate) -> Rows:
    numbers = [Column(title=title, number=True) for title in ("time", "of the step", "calls")]
    rows = [
        [
            text_cell(box.path),
            SortedCell(shown=duration(box.time_s), value=box.time_s),
            SortedCell(shown=percent(box.share), value=box.share),
            SortedCell(shown=str(box.calls), value=box.calls),
        ]
        for box in module_boxes(estimate).all_boxes()
        if box.path
    ]
    columns = [Column(title="module"), *numbers]
    return Rows(caption=f"Modules ({estimate.strategy})", columns=columns, rows=rows, folded=True)


def _choices_tables(estimates: Sequence[Estimate]) -> Iterator[Rows]:
    """What each choice of the first strategy saves over the second; nothing where both choose alike."""
    if len(estimates) == 1:
        return
    first, second = estimates[:2]
    before = _calls_by_place(second)
    pairs = [(before[place], call) for place, call in _calls_by_place(first).items() if place in before]
    changed = [(old, new) for old, new in pairs if (old.algorithm, old.layout) != (new.algorithm, new.layout)]
    if not changed:
        return
    saved = sorted(changed, key=lambda pair: _spent_s(pair[1]) - _spent_s(pair[0]))
    times = [Column(title=f"time, {each.strategy}", number=True) for each in (second, first)]
    columns = [
        Column(title="layer"),
        Column(title="saves", number=True),
        *(Column(title=title) for title in ("phase", second.strategy, first.strategy)),
        *times,
        Column(title="workspace", number=True),
    ]
    savings_s = [_spent_s(old) - _spent_s(new) for old, new in saved]
    caption = f"What each choice of {first.strategy} saves over {second.strategy}: {_with_sign(sum(savings_s))} in all"
    if min(savings_s) < 0:
        caption += " (a minus: the choice takes longer, by these estimates)"
    rows = [_choice_cells(old, new) for old, new in saved]
    yield Rows(caption=caption, columns=columns, rows=rows, folded=len(rows) > _MANY_ROWS)


def _with_sign(saved_s: float) -> str:
    return ("-" if saved_s < 0 else "") + duration(abs(saved_s))


def _choice_cells(old: LayerTime, new: LayerTime) -> list[SortedCell]:
    saved_s = _spent_s(old) - _spent_s(new)
    return [
        text_cell(new.name),
        SortedCell(shown=_with_sign(saved_s), value=saved_s),
        text_cell(new.stage.replace("_", " ")),
        *(
            text_cell(each.algorithm.name + ("" if old.layout is new.layout else f" {each.layout}"))
            for each in (old, new)
        ),
        *(SortedCell(shown=duration(_spent_s(each)), value=_spent_s(each)) for each in (old, new)),
        SortedCell(shown=size(new.workspace_bytes), value=new.workspace_bytes or 0),
    ]


def _calls_by_place(estimate: Estimate) -> dict[tuple[str, str, int], LayerTime]:
    """The calls by their layer's name, their phase, and how many of the same come before."""
    before: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, str, int], LayerTime] = {}
    for part in estimate.parts:
        place = part.name, part.stage
        found[*place, before[place]] = part
        before[place] += 1
    return found


def _spent_s(part: LayerTime) -> float:
    return part.count * part.device_s
