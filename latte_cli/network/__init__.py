"""Networks: what a model file becomes, a graph of layers with every size known."""

from latte_cli.network.graph import Network as Network
from latte_cli.network.graph import Node as Node
from latte_cli.network.graph import Value as Value
from latte_cli.network.loading import load as load
