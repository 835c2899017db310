"""Models: what the server sends of a network, its graph without weights, and what devices read of it."""

from functools import lru_cache
from pathlib import Path

from latte_cli.errors import LatteError
from latte_cli.layers import Activation, Dropout, Norm, Stored
from latte_cli.network import Network, Node, zoo
from latte_cli.network.onnx import read, stripped


def content(model: str, *, image_size: int | None = None, classes: int | None = None) -> bytes:
    """The graph of `model`, a name in the zoo or an ONNX or `.pt2` file, as ONNX without large weights.

    `image_size` and `classes` are those of a network of the zoo. Raises LatteError for a file that cannot be read.
    """
    if model in zoo.ZOO:
        return zoo.export(model, image_size=image_size, classes=classes)
    path = Path(model)
    if path.suffix not in (".onnx", ".pt2"):
        raise LatteError(f"`{model}` is no model", hint=f"a file, or one of: {', '.join(zoo.ZOO)}")
    try:
        found = path.read_bytes()
    except OSError as exc:
        raise LatteError(f"cannot read `{model}`: {exc.strerror}", hint="`latte zoo list` names other models") from exc
    from latte_cli.network import torch_program

    if torch_program.is_archive(found):
        serialized: bytes = torch_program.model(found, path.stem).SerializeToString()
        return stripped.stripped(serialized)
    return stripped.stripped(found)


@lru_cache(maxsize=16)
def network_from(content: bytes, *, batch: int) -> Network:
    """The network in `content` at this batch size; the same object for the same arguments.

    Raises LatteError for what is no network, and for one with constant tensors, which are in no graph without weights.
    """
    found = read(content, name="model", sha256=stripped.digest(content), batch_size=batch, allow_unknown=False)
    for node in found.nodes:
        if isinstance(node.layer, Stored) or not _known_by_attributes(node):
            raise LatteError(
                f"`{node.name}` ({node.layer.kind}) holds constants, which cannot be trained in a federation yet",
                hint="convolutions, linear layers and norms can",
            )
    return found


_NAMES = {"clip": {1: "min", 2: "max"}, "dropout": {1: "ratio"}}


def _known_by_attributes(node: Node) -> bool:
    """Whether a node computes the same without the constants it reads: single numbers stand in its attributes too."""
    known = {name for name, _ in node.attributes}
    indices = {index for index, _ in node.constants}
    match node.layer:
        case Norm() | Activation(function="relu6"):
            return True
        case Activation(function=function) if function.endswith("_constant"):
            return "value" in known
        case Activation(function=kind) | Dropout(kind=kind):
            names = _NAMES.get(kind, {})
            return all(names.get(index) in known for index in indices)
    return not indices
