"""Choices: how a model is to be run on a device, as a file that needs no profile and no model to be used."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latte_cli import documents, files
from latte_cli.algorithms import Algorithm
from latte_cli.devices import Kind, kind_named
from latte_cli.documents import DocumentSource
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase, layer_from_text, layer_text
from latte_cli.lookup import Pair
from latte_cli.precisions import Layout, Precision

SCHEMA = "latte.choices/1"


@dataclass(frozen=True, kw_only=True)
class Key:
    """What choices are for: a device by its slug, with its threads (0 on a GPU), libraries, arithmetic and limits."""

    device: str
    kind: Kind
    threads: int
    library_versions: tuple[tuple[str, str], ...]
    precision: Precision
    workspace_limit_bytes: int | None = None
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One phase of a convolution that is to run with `algorithm`, which saves `gain_s` seconds a call."""

    layer: Convolution
    phase: Phase
    algorithm: Algorithm
    gain_s: float


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a model is to be run: its activations' `layout` (None: as they come), and the `bindings` of its convolutions.

    `default_s`, `layout_s` and `chosen_s` are seconds of a step as PyTorch runs it by itself, with that layout alone,
    and with the bindings too; None where they are not known. `measured` says that they are those of real steps.
    `checkpoints` are the parts of the module, by name, that run again in the backward pass so that less is held.
    `reasons` say why no more is done.
    """

    key: Key
    strategy: str
    layout: Layout | None = None
    bindings: tuple[Binding, ...] = ()
    checkpoints: tuple[str, ...] = ()
    default_s: float | None = None
    layout_s: float | None = None
    chosen_s: float | None = None
    measured: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether the module stays as it is."""
        return self.layout is None and not self.bindings and not self.checkpoints

    def algorithms(self) -> dict[Pair, Algorithm]:
        """The algorithm of each layer and phase that has one."""
        return {(each.layer, each.phase): each.algorithm for each in self.bindings}


def choices_document(entries: Sequence[Choices]) -> dict[str, Any]:
    """Choices as the document `latte.choices/1`, an entry for each device and settings."""
    return {"schema": SCHEMA, "entries": [_entry(each) for each in entries]}


def _entry(choices: Choices) -> dict[str, Any]:
    key = choices.key
    return {
        "device": key.device,
        "kind": key.kind.name,
        "threads": key.threads,
        "library_versions": dict(key.library_versions),
        "precision": key.precision,
        "limits": {"workspace_bytes": key.workspace_limit_bytes, "memory_bytes": key.memory_limit_bytes},
        "strategy": choices.strategy,
        "layout": choices.layout,
        "step": {
            "default_s": choices.default_s,
            "layout_s": choices.layout_s,
            "chosen_s": choices.chosen_s,
            "measured": choices.measured,
        },
        "checkpoints": list(choices.checkpoints),
        "reasons": list(choices.reasons),
        "convolutions": [
            {
                "layer": json.loads(layer_text(each.layer)),
                "phase": each.phase,
                "input_shapes": [list(shape) for shape in each.layer.input_shapes],
                "output_shape": list(each.layer.output_shape),
                "parameter_shapes": [list(shape) for shape in each.layer.parameter_shapes],
                "flops": each.layer.flops(each.phase),
                "library": each.algorithm.library,
                "algorithm": each.algorithm.name,
                "vendor_id": each.algorithm.vendor_id,
                "gain_s": each.gain_s,
            }
            for each in choices.bindings
        ],
    }


def write_choices(path: Path, choices: Choices, *, force: bool = False) -> None:
    """Write `choices` to `path`, next to those that the file holds for other devices and settings.

    Raises LatteError for a file that has some for the same already, unless `force`, and for one that cannot be written.
    """
    check_choices_free(path, choices.key, force=force)
    others = [each for each in (read_choices(path) if path.exists() else ()) if each.key != choices.key]
    files.write_file(path, json.dumps(choices_document([*others, choices]), indent=1) + "\n")


def check_choices_free(path: Path, key: Key, *, force: bool = False) -> None:
    """Raise LatteError where `path` cannot take choices for `key`: another file, or one that has some already."""
    if path.exists() and any(each.key == key for each in read_choices(path)) and not force:
        raise LatteError(
            f"`{path}` has choices for `{key.device}` with these settings already", hint="`--force` replaces them"
        )


def read_choices(path: Path) -> tuple[Choices, ...]:
    """The choices in a file; raises LatteError for another file."""
    source = DocumentSource(where=f"`{path}`", fault="holds no choices", hint="`latte tune MODEL -o FILE` writes some")
    document = documents.load_document(path, SCHEMA, source)
    try:
        return parse_choices(document)
    except LatteError as exc:
        raise source.error(exc.message, exc.hint) from exc


def parse_choices(document: Mapping[str, Any]) -> tuple[Choices, ...]:
    """The choices in the document `latte.choices/1`, the inverse of `choices_document`.

    Raises LatteError for a kind of device and for a layer that this version does not know.
    """
    return tuple(_choices(entry) for entry in document["entries"])


def _choices(entry: Mapping[str, Any]) -> Choices:
    limits, step = entry["limits"], entry["step"]
    return Choices(
        key=Key(
            device=entry["device"],
            kind=kind_named(entry["kind"]),
            threads=entry["threads"],
            library_versions=tuple(sorted(entry["library_versions"].items())),
            precision=Precision(entry["precision"]),
            workspace_limit_bytes=limits["workspace_bytes"],
            memory_limit_bytes=limits["memory_bytes"],
        ),
        strategy=entry["strategy"],
        layout=None if entry["layout"] is None else Layout(entry["layout"]),
        bindings=tuple(_parse_binding(each) for each in entry["convolutions"]),
        checkpoints=tuple(entry.get("checkpoints", ())),  # older files have none
        default_s=step["default_s"],
        layout_s=step["layout_s"],
        chosen_s=step["chosen_s"],
        measured=step["measured"],
        reasons=tuple(entry["reasons"]),
    )


def _parse_binding(body: Mapping[str, Any]) -> Binding:
    layer = layer_from_text(json.dumps(body["layer"], separators=(",", ":")))
    if not isinstance(layer, Convolution):
        raise LatteError(f"a layer is no convolution: {layer.kind}")
    algorithm = Algorithm(library=body["library"], name=body["algorithm"], vendor_id=body["vendor_id"])
    return Binding(layer=layer, phase=Phase(body["phase"]), algorithm=algorithm, gain_s=float(body["gain_s"]))


def matching_choices(entries: Iterable[Choices], own: Key) -> Choices | None:
    """The choices for `own` device, libraries and arithmetic, under whatever limits; a fleet's name does not matter."""
    for each in entries:
        key = each.key
        named = key.device == own.device or key.device.endswith("-" + own.device)
        same = (key.kind, key.threads, key.precision) == (own.kind, own.threads, own.precision)
        if named and same and key.library_versions == own.library_versions:
            return each
    return None
