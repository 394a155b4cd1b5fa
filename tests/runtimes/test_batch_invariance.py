"""The test of batch invariance detects one different bit of one number."""

import time

import pytest
import torch
from torch import Tensor, nn

from app.runtimes.batch_invariance import graph_is_batch_invariant, model_is_batch_invariant
from app.runtimes.onnx import with_networks
from app.runtimes.onnx_operations import OPERATION_GRAPHS, OnnxOperation
from app.runtimes.operations import batch_sizes
from model.formats.native import NativeModel, model_of
from tests.support.models import COLOUR, DIGITS, build

pytestmark = pytest.mark.usefixtures("inference")


class Nudged(nn.Sequential):
    """A network that gives a last number that differs in its last bit in batches of `size`."""

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
def model(request) -> NativeModel:
    return with_networks(model_of(build(request.param)))


@pytest.mark.parametrize("largest", [1, 7, 64])
def test_onnx_runtime_is_batch_invariant(model, largest):
    assert model_is_batch_invariant(model, batch_sizes(largest), model)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("size", [2, 8])
def test_one_bit_in_batches_of_one_size_is_detected(model, part, size):
    network = getattr(model.vae, part)
    network.network = Nudged(network.network, size)
    assert model_is_batch_invariant(model, [1, 4, 16], model)
    assert not model_is_batch_invariant(model, [1, 2, 4, 8, 16], model)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_other_bits_of_a_single_row_are_detected(model, part):
    single = with_networks(model_of(build(model.vae.config)))
    network = getattr(single.vae, part)
    network.network = Nudged(network.network, 1)
    assert not model_is_batch_invariant(model, [1, 2], single)


class Misplaced(nn.Sequential):
    """A network that changes the last bit of the third row."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        y[2:3] = torch.nextafter(y[2:3], torch.tensor(torch.inf))
        return y


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_with_one_size_other_sizes_do_not_count_but_every_row_does(model, part):
    network = getattr(model.vae, part)
    inner = network.network
    network.network = Nudged(inner, 1)
    assert model_is_batch_invariant(model, [16], model)
    network.network = Misplaced(inner)
    assert not model_is_batch_invariant(model, [16], model)


@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
def test_several_threads_give_the_bits_of_one_thread(config):
    model = model_of(build(config))
    assert model_is_batch_invariant(with_networks(model), batch_sizes(16), with_networks(model, threads=3))


def test_rows_that_cannot_be_compared_in_time_are_not_batch_invariant():
    model = model_of(build(DIGITS))
    now = time.monotonic()
    assert not model_is_batch_invariant(with_networks(model), [1, 2], with_networks(model), until=now)
    for operation in OPERATION_GRAPHS:
        graph = OnnxOperation(operation, model.vae, 1)
        assert not graph_is_batch_invariant(graph, model.spec, [1, 2], until=now)
