"""Which activations share a storage, against torch's own views."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latte_cli import load
from latte_cli.estimator.storages import Storages, contiguous_strides, view_strides

SIZES = st.sampled_from((1, 2, 3, 4, 6))


@given(st.data())
def test_a_view_has_the_strides_that_torch_gives_it_or_torch_has_none(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(SIZES, min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    expanded = [data.draw(st.sampled_from((size, 3))) if size == 1 else size for size in shape]
    tensor = torch.empty(shape).expand(expanded).permute(order)
    if data.draw(st.booleans()):
        tensor = tensor[: max(1, tensor.shape[0] - 1)]
    factors = [size for size in tensor.shape for size in ((2, size // 2) if data.draw(st.booleans()) else (size,))]
    wanted = tuple(factors) if torch.Size(factors).numel() == tensor.numel() else (tensor.numel(),)
    joined = data.draw(st.integers(0, len(wanted)))
    wanted = (torch.Size(wanted[:joined]).numel(), *wanted[joined:])
    found = view_strides(tuple(tensor.shape), tensor.stride(), wanted)
    try:
        view = tensor.view(wanted)
    except RuntimeError:
        assert found is None
    else:
        assert found is not None
        assert [a for a, size in zip(found, wanted, strict=True) if size > 1] == [
            a for a, size in zip(view.stride(), wanted, strict=True) if size > 1
        ]


@given(st.lists(SIZES, max_size=4))
def test_a_new_tensor_lies_end_to_end(shape: list[int]) -> None:
    assert contiguous_strides(tuple(shape)) == torch.empty(shape).stride()


class Heads(nn.Module):
    """Splits rows into heads and joins them again."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.mix(x).view(2, 5, 4, 2).transpose(1, 2)
        return heads.transpose(1, 2).reshape(2, 5, 8) + heads.reshape(8, 10).sum()


def test_only_what_no_view_has_is_copied() -> None:
    found = load(Heads(), torch.randn(2, 5, 8))
    storages = Storages(found)
    copied = [found.shapes[node.output] for node in found.nodes if node.name in storages.copies]
    assert copied == [(8, 10)]
