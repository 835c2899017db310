"""The selector of LATTE's own code, for comparison: a perceptron with a gate on its thirteen raw sizes.

As published with the dataset (lattecore/LATTE, `Layer_Algorithm_Selector.py`): the sizes are weighted by a learned
sigmoid gate times fixed importances, then go through 256, 128, 64, 32 and 16 units; Adam at 0.003 on batches of 256 for
1,500 epochs, the rate times 0.95 after 3 epochs without a lower loss; what is kept is the epoch with the most right
answers on what it learned from. Here there is one for each device, phase, precision and layout.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.selector.candidates import Array, CandidateTable
from latte_cli.tasks import Settings

if TYPE_CHECKING:
    from latte_cli.selector.decisions import Decision

Tensors = Mapping[str, npt.NDArray[np.float32]]

_FILE = "weights.safetensors"
_WIDTHS = (256, 128, 64, 32, 16)  # LATTE's published code
_IMPORTANCES = {9: 2.0, 10: 2.0, 2: 0.5, 3: 0.5, 4: 0.5}  # strides count double, extents and channels out half
_INPUTS = 13  # LATTE's published code: the 13 numbers of a 2-D convolution
_EPOCHS = 1500  # LATTE's published code


class Perceptrons:
    """The perceptrons' weights by device, phase, precision and layout; numpy alone computes with them."""

    kind = "mlp"

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def losses(self, candidates: CandidateTable) -> Array:
        """Minus the logarithm of each candidate's likelihood; equal ones where nothing like it was learned from."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for row, (_, phase) in enumerate(candidates.pairs):
            groups[perceptron_key(candidates.device.slug, candidates.settings, phase)].append(row)
        logits = np.zeros((len(candidates.pairs), candidates.algorithms))
        for name, rows in groups.items():
            if f"{name}/0/weight" in self._tensors:
                logits[rows] = self._logits(name, sizes([candidates.pairs[row][0] for row in rows]))
        shifted = logits - logits.max(axis=1, keepdims=True)
        likely = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        result: Array = -likely[candidates.rows, candidates.indices]
        return result

    def _logits(self, name: str, x: npt.NDArray[np.float32]) -> Array:
        at = self._tensors
        gate = 1 / (1 + np.exp(-np.clip(x @ at[f"{name}/gate/weight"].T + at[f"{name}/gate/bias"], -60, 60)))
        x = x * gate * at[f"{name}/importance"]
        for index in range(len(_WIDTHS) + 1):
            x = x @ at[f"{name}/{index}/weight"].T + at[f"{name}/{index}/bias"]
            x = np.maximum(x, 0) if index < len(_WIDTHS) else x
        return x.astype(np.float64)

    def as_files(self) -> dict[str, bytes]:
        from safetensors.numpy import save

        return {_FILE: save({name: np.ascontiguousarray(tensor) for name, tensor in self._tensors.items()})}


def load_perceptrons(content: Mapping[str, bytes], algorithms: int) -> Perceptrons:
    """Perceptrons for so many algorithms from their safetensors file; raises ValueError for what is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as read

    if set(content) != {_FILE}:
        raise ValueError("weights that are not complete")
    try:
        tensors = read(content[_FILE])
    except SafetensorError as exc:
        raise ValueError("unreadable weights") from exc
    names = {name.removesuffix("/importance") for name in tensors if name.endswith("/importance")}
    wanted = {f"{name}/{part}": shape for name in names for part, shape in _shapes(algorithms).items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != wanted:
        raise ValueError("weights of other shapes")
    return Perceptrons(tensors)


def _shapes(algorithms: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a perceptron's tensors."""
    units = pairwise((_INPUTS, *_WIDTHS, algorithms))
    wide = {"gate": (_INPUTS, _INPUTS), **{str(index): (out, wide) for index, (wide, out) in enumerate(units)}}
    weights = {f"{name}/weight": shape for name, shape in wide.items()}
    return {"importance": (_INPUTS,), **weights, **{f"{name}/bias": shape[:1] for name, shape in wide.items()}}


def perceptron_key(slug: str, settings: Settings, phase: Phase) -> str:
    """What a perceptron is for."""
    return f"{slug} {phase} {settings.precision} {settings.layout}"


def sizes(layers: Sequence[Layer]) -> npt.NDArray[np.float32]:
    """The paper's thirteen numbers of each layer: N, C, H, W, K, R, S, padding, stride and dilation of both axes."""
    return np.array([_sizes(layer) for layer in layers], dtype=np.float32).reshape(len(layers), _INPUTS)


def _sizes(layer: Layer) -> tuple[int, ...]:
    if not isinstance(layer, Convolution):
        return (0,) * _INPUTS
    both = [
        (*axes, fill)[:2]
        for axes, fill in (
            (layer.input, 1),
            (layer.kernel, 1),
            (layer.pad_before, 0),
            (layer.stride, 1),
            (layer.dilation, 1),
        )
    ]
    first, *others = both
    return (layer.batch, layer.in_channels, *first, layer.out_channels, *(size for axes in others for size in axes))


def fit_perceptrons(
    decisions: Sequence["Decision"], algorithms: Sequence[Any], *, seed: int, epochs: int = _EPOCHS
) -> Perceptrons:
    """Perceptrons trained on who won, each row of conflicting ones for itself."""
    groups: defaultdict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        groups[perceptron_key(decision.device.slug, decision.settings, decision.phase)].append(decision)
    indices = {algorithm: index for index, algorithm in enumerate(algorithms)}
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for name, own in groups.items():
        rows = [(d.layer, indices[won]) for d in own for won, count in d.wins or ((d.best, 1),) for _ in range(count)]
        labels = np.array([label for _, label in rows])
        trained = _train(sizes([layer for layer, _ in rows]), labels, len(algorithms), seed, epochs)
        tensors |= {f"{name}/{part}": tensor for part, tensor in trained.items()}
    return Perceptrons(tensors)


def _train(
    x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int, seed: int, epochs: int
) -> dict[str, npt.NDArray[np.float32]]:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the batches are too small to share
    given, right = torch.from_numpy(x), torch.from_numpy(labels)
    gate = nn.Linear(_INPUTS, _INPUTS)
    importance = nn.Parameter(torch.ones(_INPUTS))
    for index, value in _IMPORTANCES.items():
        importance.data[index] = value
    widths = (_INPUTS, *_WIDTHS, classes)
    layers = nn.ModuleList(nn.Linear(wide, out) for wide, out in pairwise(widths))
    parameters = [*gate.parameters(), importance, *layers.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.003, fused=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.95, patience=3)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        batch = batch * torch.sigmoid(gate(batch)) * importance
        for layer in layers[:-1]:
            batch = torch.relu(layer(batch))
        result: torch.Tensor = layers[-1](batch)
        return result

    def state() -> dict[str, npt.NDArray[np.float32]]:
        named = {"gate": gate, **{str(index): layer for index, layer in enumerate(layers)}}
        kept = {f"{name}/{part}": value for name, own in named.items() for part, value in own.named_parameters()}
        return {name: tensor.detach().numpy().copy() for name, tensor in (*kept.items(), ("importance", importance))}

    best, kept = -1.0, state()
    for _ in range(epochs):
        losses = []
        for batch in torch.split(torch.randperm(len(given)), 256):
            loss = nn.functional.cross_entropy(logits(given[batch]), right[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            agreed = float((logits(given).argmax(dim=1) == right).float().mean())
        if agreed > best:
            best, kept = agreed, state()
        scheduler.step(sum(losses) / len(losses))
    torch.set_num_threads(threads)
    return kept
