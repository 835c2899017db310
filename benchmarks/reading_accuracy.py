"""How accurately LATTE reads networks of five libraries: parameters and FLOPs against torch's, in four forms.

LATTE reads each network of `reading_networks.py` as a live module, as a `.pt2` program and from both of torch's ONNX
exporters. The export has a batch of two; LATTE reads it at a batch of three. Modules and `.pt2` files are in training
mode, ONNX files in evaluation mode, as most exports are.

For modules and `.pt2` the right parameters are those that receive a gradient, and the others, and the bytes of buffers;
for ONNX the weights that the results depend on, and where the file does not hold all of them as they are, what it holds
(`held_weights`): exporters slice a table of positions to the steps of the example, fold norms into convolutions, the
exponential of a scale into a number, and leave out what no result reads. Two files prove it, exported with the numbers
drawn twice: what differs between them are weights, and of a parameter those of its numbers that are there. The older
exporter makes an input of a default of 0 that says how many steps to keep, and keeps one: no FLOPs are compared then.
The right FLOPs are those of `FlopCounterMode`, with the rules of RULES where it has none or a wrong one. The loss is
the cross-entropy of the last output and the sum of the others. `memory_accuracy.py` compares the memory. Before an ONNX
export each parameter is drawn, since exporters store equal ones once.
ONNX files are read with `compare_weights`; their attention is products of matrices, whose backward holds the scores.

For modules it also prints the share of the parameters that sub-models keep at each of WIDTHS, or why a network has
none. The sub-model at the first width runs a step as a module. The table counts those that have the parameters and the
FLOPs that LATTE says.

`--output` has a line for each network in each form, beside this file those of the last run. A child process reads a few
networks; a line also records one that hangs or dies. A run that was interrupted goes on where it stopped. It needs
`pip install -c constraints.txt torchvision timm transformers diffusers segmentation-models-pytorch`.

    python benchmarks/reading_accuracy.py [--only REGEX] [--forms truth,module,pt2,dynamo,old] [--limit-s 60]
        [--for-s SECONDS] [--again OUTCOME] [--report] [--output benchmarks/reading_accuracy.jsonl]
"""

import argparse
import gc
import json
import re
import resource
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from reading_networks import build

from latte_cli import LatteError, child, load

TRUTH, MODULE, PT2, DYNAMO, OLD = FORMS = ("truth", "module", "pt2", "dynamo", "old")
WIDTHS = (0.5, 0.25)
EXPORTED, ASKED = 2, 3
"""The batch sizes of the export and of the reading."""
MEMORY_BYTES = 8 * 2**30
WITHIN = 0.01
AT_ONCE = 16
"""How many networks one process reads, since what it imports takes longer than most."""
KIND, SHOWN = 140, 6
"""How many characters of a reason tell it from others, and how many networks are named for each."""


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The scores once more, and then four products."""
    return 2 * prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _products_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Twice what forward takes, where the scores are held."""
    return 2 * _attention(query, key, value)


def _convolution_backward(gradient: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """Each gradient takes what forward takes; the counter's own rule forgets the groups."""
    transposed, wanted = rest[4], rest[7]
    places = (x if transposed else gradient)[2:]
    return 2 * prod(places) * x[0] * prod(weight) * (bool(wanted[0]) + bool(wanted[1]))


def _grouped(left: Any, right: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of two matrices, each group has its part of what is summed over."""
    if len(left) == len(right) == 2:
        return 2 * prod(left) * right[-1]
    return 2 * prod(out_shape) * left[-1]


def RULES() -> dict[Any, Callable[..., int]]:  # noqa: N802 - a constant that needs torch
    import torch

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten.convolution_backward: _convolution_backward,
        aten._grouped_mm: _grouped,
    }


def tensors(result: Any) -> Iterator[Any]:
    """The floating-point tensors in what a module returned, in their order, that a gradient can flow back to."""
    import torch

    if isinstance(result, torch.Tensor):
        if result.requires_grad:
            yield result
    elif isinstance(result, Mapping):
        for each in result.values():
            yield from tensors(each)
    elif isinstance(result, Sequence) and not isinstance(result, str):
        for each in result:
            yield from tensors(each)
    elif is_dataclass(result):
        for field in fields(result):
            yield from tensors(getattr(result, field.name))


def loss_of(result: Any) -> Any:
    """The cross-entropy of the last output, and the sum of the others."""
    import torch

    *others, scores = tensors(result)
    scores = scores.movedim(1, -1) if scores.dim() > 3 else scores
    rows = scores.reshape(-1, scores.shape[-1] if scores.dim() else 1)
    targets = torch.zeros(len(rows), dtype=torch.long)
    return sum((each.sum() for each in others), torch.nn.functional.cross_entropy(rows, targets))


def truth(request: Mapping[str, Any]) -> dict[str, Any]:
    """What torch says of a network: in training mode, and what differs in evaluation mode."""
    module, arguments, keywords = build(request["name"], ASKED)
    training = _work(module.train(), arguments, keywords)
    found = {**training, **_tensors_of(module)}
    module.zero_grad(set_to_none=True)
    evaluation = _work(module.eval(), arguments, keywords, products=True)
    reached = {id(p) for p in module.parameters() if p.grad is not None or not p.requires_grad}
    used = sum(p.numel() for p in module.parameters() if id(p) in reached)
    shape = [tuple(each.shape) for each in (*arguments, *keywords.values())]
    return {**found, "evaluation": {**evaluation, "used": used}, "inputs": shape}


def _work(module: Any, arguments: Any, keywords: Any, *, products: bool = False) -> dict[str, int]:
    """The FLOPs of a step; `products` are what an ONNX file has for attention."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    rules = RULES()
    if products:
        rules[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward] = _products_backward
    with FlopCounterMode(display=False, custom_mapping=rules) as forward:
        loss = loss_of(module(*arguments, **keywords))
    with FlopCounterMode(display=False, custom_mapping=rules) as backward:
        loss.backward()
    return {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}


def _tensors_of(module: Any) -> dict[str, int]:
    own = list(module.parameters())
    trained = sum(p.numel() for p in own if p.grad is not None)
    return {
        "parameters": sum(p.numel() for p in own),
        "trained": trained,
        "buffer_bytes": sum(buffer.nbytes for buffer in module.buffers()),
    }


class NotExported(Exception):
    """torch cannot make a file of a network."""


def reading(request: Mapping[str, Any]) -> dict[str, Any]:
    """What LATTE says of a network in a form."""
    form, start = request["form"], time.perf_counter()
    module, arguments, keywords = build(request["name"], EXPORTED)
    module.train(form in (MODULE, PT2))
    with TemporaryDirectory() as folder:
        try:
            if form == MODULE:
                model, example = module, (*arguments, keywords) if keywords else arguments
            else:
                model, example = _file(module, arguments, keywords, form, Path(folder)), None
        except NotExported as exc:
            return {"outcome": "not exported", "reason": str(exc)}
        made_s = time.perf_counter() - start
        try:
            network = load(model, example, batch_size=ASKED, compare_weights=form in (DYNAMO, OLD))
        except LatteError as exc:
            if form == MODULE and (unable := _no_program(module, arguments, keywords, exc)):
                return {"outcome": "not exported", "reason": unable}
            return {"outcome": "refused", "reason": exc.message, "hint": exc.hint, "own": _own(model, example)}
        said = _said(network)
        if form in (DYNAMO, OLD):
            more: dict[str, Any] = {"keeps_less": _keeps_less(model, module, arguments, keywords)}
            more |= _held(model, module, lambda: _file(module, arguments, keywords, form, Path(folder) / "again"))
        else:
            more = _sub_models(network) if form == MODULE else {}
    return {"outcome": "read", "made_s": made_s, **said, **more}


def _sub_models(network: Any) -> dict[str, Any]:
    """The share of the parameters that each width keeps, or why the network has no such sub-models."""
    from latte_cli.network.channels import kept_whole, sub_model

    try:
        shares = [sub_model(network, width).parameters / network.parameters for width in WIDTHS]
    except LatteError as exc:
        return {"shrinks": exc.message}
    found = {"shrinks": "", "shares": [round(share, 4) for share in shares], "kept": [*kept_whole(network)]}
    return found | {"ran": _ran(sub_model(network, WIDTHS[0]))}


def _ran(sub: Any) -> str:
    """What a step of a sub-model's module has otherwise than was said; "" for nothing."""
    from latte_cli.network.module import NetworkModule, random_inputs

    said = _work_said(sub)
    try:
        module = NetworkModule(sub).train()
        made = _work(module, random_inputs(sub), {})
    except Exception as exc:
        return _exception(exc)
    if (own := sum(p.numel() for p in module.parameters() if p.requires_grad)) != sub.trained_parameters:
        return f"{own} trained parameters instead of {sub.trained_parameters}"
    off = [key for key in made if not _close(said[key], made[key], WITHIN)]
    return f"other FLOPs: {', '.join(off)}" if off else ""


def _own(model: Any, example: Any) -> str:
    """What comes of reading it with the samples that it was exported with."""
    try:
        load(model, example)
    except LatteError as exc:
        return exc.message
    return "read"


def _exception(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"


def _no_program(module: Any, arguments: Any, keywords: Any, refused: LatteError) -> str:
    """Why torch itself has no program of the module; "" where it has one, and LATTE refused that."""
    import torch

    if refused.message.startswith("torch cannot export"):
        try:
            torch.export.export(module, arguments, keywords)
        except Exception as exc:
            return _exception(exc)
    return ""


def _file(module: Any, arguments: Any, keywords: Any, form: str, folder: Path) -> str:
    import torch

    folder.mkdir(exist_ok=True)
    path = folder / ("model.pt2" if form == PT2 else "model.onnx")
    try:
        if form == PT2:
            torch.export.save(torch.export.export(module, arguments, keywords), path)
        else:
            _draw(module)
            torch.onnx.export(module, arguments, path, kwargs=keywords, dynamo=form == DYNAMO, verbose=False)
    except Exception as exc:
        raise NotExported(_exception(exc)) from exc
    return str(path)


def _draw(module: Any) -> None:
    import torch

    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.1, 0.1)


def _work_said(network: Any) -> dict[str, int]:
    from latte_cli.estimator.steps import Step, step_calls
    from latte_cli.layers import Phase

    work = {"forward": 0, "backward": 0}
    for call in step_calls(network, Step(optimizer="none", loss="none")):
        key = "forward" if call.phase is Phase.FORWARD else "backward"
        work[key] += call.layer.flops(call.phase) if call.layer.workload else 0
    return work


def _said(network: Any) -> dict[str, Any]:
    return {
        "parameters": network.parameters,
        "trained": network.trained_parameters,
        "buffer_bytes": network.buffer_bytes,
        **_work_said(network),
        "batch": network.batch_size,
        "notes": [*network.notes],
        "left_out": [*network.unpriced, *network.unknown],
    }


def _held(path: str, module: Any, again: Callable[[], str]) -> dict[str, int]:
    """How many weights an ONNX file holds, where it does not hold each parameter of the module as it is."""
    import numpy as np

    stored = _floats(path)
    own = [parameter.detach().numpy().copy() for parameter in module.parameters()]
    whole = {_numbers(array): array for array in own}
    if whole.keys() <= {_numbers(array) for array in stored.values()}:
        return {}
    other = _floats(again())
    drawn = [array for name, array in stored.items() if not np.array_equal(array, other.get(name))]
    found = {_numbers(array): array for array in drawn if array.size > 1 or _numbers(array) in whole}
    total = sum(array.size for key, array in found.items() if key in whole)
    parts: dict[int, Any] = defaultdict(bool)
    for array in (array for key, array in found.items() if key not in whole):
        source = next((at for at, parameter in enumerate(own) if np.isin(array, parameter).all()), None)
        if source is None:
            total += array.size
        elif _numbers(own[source]) not in found:
            parts[source] = parts[source] | np.isin(own[source], array)
    return {"held_weights": total + sum(int(part.sum()) for part in parts.values())}


def _keeps_less(path: str, module: Any, arguments: Any, keywords: Any) -> bool:
    """Whether an ONNX file returns fewer numbers than the module."""
    import onnx

    returned = sum(each.numel() for each in tensors(module(*arguments, **keywords)))
    shapes = [each.type.tensor_type.shape.dim for each in onnx.load(path, load_external_data=False).graph.output]
    sizes = [prod(each.dim_value for each in shape) for shape in shapes]
    return 0 not in sizes and sum(sizes) < returned


def _floats(path: str) -> dict[str, Any]:
    import onnx

    stored = onnx.load(path).graph.initializer
    return {each.name: onnx.numpy_helper.to_array(each) for each in stored if each.data_type == onnx.TensorProto.FLOAT}


def _numbers(array: Any) -> bytes:
    """The same for arrays of the same numbers in another order."""
    import numpy as np

    return bytes(np.sort(array, axis=None).tobytes())


def answer(request: Mapping[str, Any]) -> None:
    """Append a row for each pair of a network and a form, in a process that ends where one takes too long."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    for name, form in request["pairs"]:
        gc.collect()
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, request["limit_s"])
        one = {**request, "name": name, "form": form}
        found = {"outcome": "run", **truth(one)} if form == TRUTH else reading(one)
        append(Path(request["output"]), (name, form), found, time.perf_counter() - start)


def append(output: Path, pair: Sequence[str], found: Mapping[str, Any], wall_s: float) -> None:
    """Write a row in one piece, beside those of other processes."""
    line = {"name": pair[0], "form": pair[1], "wall_s": round(wall_s, 1), **found}
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(*pair, found["outcome"], found.get("reason", ""), f"{wall_s:.1f} s", file=sys.stderr)


def run(pairs: Sequence[tuple[str, str]], limit_s: float, output: Path, target: str = "") -> None:
    """Append a row for each pair by `target` ("module:function"); where the process dies, another goes on."""
    while pairs:
        request = {"pairs": pairs, "limit_s": limit_s, "output": str(output.absolute())}
        before = len(lines_of(output))
        start = time.perf_counter()
        try:
            child.ask(target or f"{Path(__file__).stem}:answer", request)
            return
        except child.Ended as exc:
            done = {(each["name"], each["form"]) for each in lines_of(output)[before:]}
            pairs = [pair for pair in pairs if pair not in done]
            late = exc.code == -signal.SIGALRM
            found = {"outcome": "timed out" if late else "died", "reason": f"over {limit_s:g} s" if late else str(exc)}
            append(output, pairs[0], found, time.perf_counter() - start)
            pairs = pairs[1:]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All rows, in the order that they were written in."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last line of each network in each form."""
    return {(each["name"], each["form"]): each for each in lines_of(path)}


def verdicts(found: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether what was read is right, by what is compared; None where there is nothing to compare it with."""
    if found["form"] in (MODULE, PT2):
        parameters = all(found[key] == right[key] for key in ("parameters", "trained", "buffer_bytes"))
        work = right
    else:
        work = right["evaluation"]
        parameters = found["parameters"] == found.get("held_weights", work["used"])
    flops = all(_close(found[key], work[key], WITHIN) for key in ("forward", "backward"))
    compared = None if found.get("keeps_less") else flops
    return {"parameters": parameters, "FLOPs": compared}


def _close(found: float, right: float, within: float) -> bool:
    return abs(found - right) <= within * right


def report(rows: Mapping[tuple[str, str], Mapping[str, Any]], known: Iterable[str]) -> str:
    """The tables in Markdown: counts by form and library, then what is not right, by reason."""
    known = list(known)
    libraries = list(dict.fromkeys(name.partition("/")[0] for name in known))
    lines = [
        "| form | networks | run | torch exports | read | parameters | FLOPs "
        "| sub-models | at 1/2 | at 1/4 | run as said |",
        f"|{'---|' * 11}",
    ]
    for form in FORMS[1:]:
        lines.append(_counts(form, rows, form, known))
        for library in libraries:
            own = [name for name in known if name.startswith(f"{library}/")]
            if any((name, form) in rows for name in own):
                lines.append(_counts(f"{form}, {library}", rows, form, own))
    missing = sum((name, form) not in rows for name in known for form in FORMS[1:])
    lines += ["", f"Not yet run: {missing} of {len(known) * len(FORMS[1:])} pairs of a network and a form."]
    lines += ["", "| what | networks | reason | which |", "|---|---|---|---|", *_reasons(rows, known)]
    return "\n".join(lines)


def _counts(title: str, rows: Mapping[tuple[str, str], Mapping[str, Any]], form: str, names: Sequence[str]) -> str:
    run = [rows[name, form] for name in names if (name, form) in rows]
    exported = [each for each in run if each["outcome"] in ("read", "refused")]
    read = [each for each in exported if each["outcome"] == "read"]
    against = [(each, rows[each["name"], TRUTH]) for each in read if _has_truth(rows, each["name"])]
    found = [verdicts(each, right) for each, right in against]
    cells = []
    for key in ("parameters", "FLOPs"):
        told = [each[key] for each in found if each[key] is not None]
        cells.append(f"{sum(map(bool, told))} of {len(told)}" if told else "")
    cells += _shrunk([each for each in read if "shrinks" in each])
    return f"| {title} | {len(names)} | {len(run)} | {len(exported)} | {len(read)} | {' | '.join(cells)} |"


def _shrunk(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many networks have sub-models, and the median share of the parameters at each width."""
    shares = [each["shares"] for each in rows if not each["shrinks"]]
    middle = [f"{median(column):.0%}" for column in zip(*shares, strict=True)] or [""] * len(WIDTHS)
    ran = [not each["ran"] for each in rows if "ran" in each]
    return [f"{len(shares)} of {len(rows)}" if rows else "", *middle, f"{sum(ran)} of {len(ran)}" if ran else ""]


def _has_truth(rows: Mapping[tuple[str, str], Mapping[str, Any]], name: str) -> bool:
    return rows.get((name, TRUTH), {}).get("outcome") == "run"


def _reasons(rows: Mapping[tuple[str, str], Mapping[str, Any]], known: Sequence[str]) -> Iterator[str]:
    """What is not right, the most frequent first: refused, then wrong, then what torch or the machine could not."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in known:
        for form in FORMS:
            each = rows.get((name, form), {"outcome": "not run"})
            if each["outcome"] in ("refused", "not exported", "timed out", "died"):
                groups[each["outcome"]][_kind(each["reason"])].append(f"{name} ({form})")
            elif each.get("shrinks"):
                groups["no sub-models"][_kind(each["shrinks"])].append(name)
            elif each.get("ran"):
                groups["sub-models run otherwise"][_kind(each["ran"])].append(name)
            if each["outcome"] == "read" and _has_truth(rows, name):
                for what, reason in _wrong(each, rows[name, TRUTH]):
                    groups[f"wrong {what}"][reason].append(f"{name} ({form})")
    for what, reasons in groups.items():
        for reason, where in sorted(reasons.items(), key=lambda pair: -len(pair[1])):
            shown = ", ".join(where[:SHOWN]) + (f" and {len(where) - SHOWN} more" if len(where) > SHOWN else "")
            yield f"| {what} | {len(where)} | {reason.replace('|', '/')} | {shown} |"


def _wrong(found: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    said = "left out is said" if found["left_out"] else "with a note" if found["notes"] else "without a word"
    told = verdicts(found, right)
    whole = found["form"] in (MODULE, PT2)
    work = right if whole else right["evaluation"]
    if not told["parameters"]:
        keys = [key for key in ("parameters", "trained", "buffer_bytes") if found[key] != right[key]]
        yield "parameters", f"{', '.join(keys) if whole else 'total'}, {said}"
    if told["FLOPs"] is False:
        off = [key for key in ("forward", "backward") if not _close(found[key], work[key], WITHIN)]
        yield "FLOPs", f"{', '.join(off)}, {said}"


def _kind(reason: str) -> str:
    """A reason without the names and numbers of one network."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", reason)
    plain = re.sub(r"`([^`]*)`", lambda found: "`…`" if re.search("[_./ ]", found[1]) else found[0], plain)
    return re.sub(r"\d+", "N", plain)[:KIND]


def _wanted(old: Mapping[str, Any] | None, again: str) -> bool:
    return old is None or bool(again and re.fullmatch(again, old["outcome"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for names")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--limit-s", type=float, default=60, help="the most that one network may take in one form")
    parser.add_argument("--for-s", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--again", default="", help="run again what came out so, such as `refused`")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    known, end_s = child.ask("reading_networks:names", None), time.monotonic() + options.for_s
    chosen = [] if options.report else list(filter(re.compile(options.only).search, known))
    for first in range(0, len(chosen), AT_ONCE):
        old = rows_of(options.output)
        pairs = [(name, form) for name in chosen[first : first + AT_ONCE] for form in options.forms.split(",")]
        if time.monotonic() < end_s:
            run([pair for pair in pairs if _wanted(old.get(pair), options.again)], options.limit_s, options.output)
    print(report(rows_of(options.output), known))


if __name__ == "__main__":
    main()
