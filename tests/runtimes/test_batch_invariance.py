"""Whether a batch keeps its rows apart is found out by trying, down to the last bit of a single number."""

import pytest
import torch
from torch import Tensor, nn

from app.runtimes.batch_invariance import keeps_rows_apart
from app.runtimes.operations import shapes
from app.runtimes.selection import compiled
from model.vae import VAE
from tests.support.models import COLOUR, DIGITS, build

pytestmark = pytest.mark.usefixtures("inference")


class Nudged(nn.Sequential):
    """A network whose last number of all is off by its last bit in batches of `size`."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__(network)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if len(y) == self.size:
            y.view(-1)[-1] = torch.nextafter(y.view(-1)[-1], torch.tensor(torch.inf))
        return y


@pytest.fixture
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(params=[DIGITS, COLOUR], ids=["digits", "colour"])
def vae(request) -> VAE:
    return compiled(build(request.param))


@pytest.mark.parametrize("largest", [1, 7, 64])
def test_onnx_runtime_keeps_the_rows_of_a_batch_apart(vae, largest):
    assert keeps_rows_apart(vae, shapes(largest), vae)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("size", [2, 8])
def test_one_last_bit_in_one_size_of_batch_is_noticed(vae, part, size):
    network = getattr(vae, part)
    network.network = Nudged(network.network, size)
    assert keeps_rows_apart(vae, [1, 4, 16], vae)
    assert not keeps_rows_apart(vae, [1, 2, 4, 8, 16], vae)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_row_that_has_other_bits_where_it_is_alone_is_noticed(vae, part):
    lone = compiled(build(vae.config))
    network = getattr(lone, part)
    network.network = Nudged(network.network, 1)
    assert not keeps_rows_apart(vae, [1, 2], lone)


class Misplaced(nn.Sequential):
    """A network that gives the row in the third place another last bit."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        y[2:3] = torch.nextafter(y[2:3], torch.tensor(torch.inf))
        return y


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_of_one_size_of_batch_alone_other_sizes_do_not_count_but_every_place_does(vae, part):
    network = getattr(vae, part)
    inner = network.network
    network.network = Nudged(inner, 1)
    assert keeps_rows_apart(vae, [16], vae)
    network.network = Misplaced(inner)
    assert not keeps_rows_apart(vae, [16], vae)


@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
def test_several_threads_give_the_bits_that_one_gives(config):
    vae = build(config)
    assert keeps_rows_apart(compiled(vae), shapes(16), compiled(vae, threads=3))
