"""The CPU's algorithms by name, torch's own and oneDNN's, as functions of a convolution's tensors."""

from latte_cli.algorithms import FRAMEWORK_DEFAULT, LISTED, Algorithm
from latte_cli.backends.contract import Computation, Unsupported
from latte_cli.backends.cpu.convolutions import CONVOLUTIONS
from latte_cli.backends.cpu.onednn_calls import OnednnComputation
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS
from latte_cli.layers import Convolution, Phase
from latte_cli.tasks import Settings


def cpu_computation(algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings) -> Computation:
    """The function with which `algorithm` computes; see `contract.Opener`."""
    if algorithm == FRAMEWORK_DEFAULT:
        own = FRAMEWORK_CONVOLUTIONS[phase]
        return lambda o: own(layer, o)
    if algorithm.library == LISTED.library:
        return OnednnComputation(algorithm, layer, phase, settings)
    found = CONVOLUTIONS.get(algorithm.name)
    if found is None or phase not in found.calls:
        raise Unsupported(f"no {algorithm.name} for {phase}")
    if not found.applies(layer, phase, settings):
        raise Unsupported(f"{algorithm.name} does not apply to this layer")
    compute = found.calls[phase]
    return lambda o: compute(layer, o)
