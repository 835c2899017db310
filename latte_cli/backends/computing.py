"""Computing: an algorithm by name as a function of a convolution's tensors, wherever they are."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import Unsupported
from latte_cli.backends.torch_layers import FRAMEWORK_CONVOLUTIONS, Operands
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings

Compute: TypeAlias = Callable[[Operands], Tensor]


def computing(algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str) -> Compute:
    """The function with which `algorithm` computes `phase` of `layer` from its operands on `device`.

    Backward filter gives the gradient of the weight alone. Raises Unsupported for an algorithm that does not; the
    function raises what torch and the library do.
    """
    if algorithm == FRAMEWORK_DEFAULT:
        compute = FRAMEWORK_CONVOLUTIONS[phase]
        return lambda o: compute(layer, o)
    if algorithm.library == "cudnn":
        return _cudnn(algorithm, layer, phase, settings, device)
    if device != "cpu":
        raise Unsupported(f"no {algorithm.name} on {device}")
    if algorithm.library == "onednn":
        return _onednn(algorithm, layer, phase, settings)
    return _cpu(algorithm, layer, phase, settings)


def _cpu(algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings) -> Compute:
    from latte_cli.backends.cpu_convolutions import CONVOLUTIONS

    found = CONVOLUTIONS.get(algorithm.name)
    if found is None or phase not in found.calls:
        raise Unsupported(f"no {algorithm.name} for {phase}")
    if not found.applies(layer, phase, settings):
        raise Unsupported(f"{algorithm.name} does not apply to this layer")
    compute = found.calls[phase]
    return lambda o: compute(layer, o)


def _cudnn(algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings, device: str) -> Compute:
    from latte_cli.backends.cuda_calls import computed

    return computed(algorithm, layer, phase, settings, device)


def _onednn(algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings) -> Compute:
    from latte_cli.backends.onednn_calls import Computation

    return Computation(algorithm, layer, phase, settings)
