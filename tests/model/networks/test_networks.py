"""Tests of encoder, decoder and VAE: shapes, symmetry, receptive fields, independence of rows."""

from dataclasses import replace
from itertools import pairwise, product
from math import exp

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn.functional import conv2d, silu
from torch.testing import assert_close

from model.config import VAEConfig
from model.elbo import bounds
from model.likelihoods import FAMILIES
from model.networks.blocks import Downsample, Residual, Upsample
from model.networks.encoder import LOGVAR_LIMITS, MEAN_LIMITS
from tests.support.configs import configs
from tests.support.models import COLOUR, DIGITS, build

MLP = VAEConfig(image_shape=(1, 5, 7), latent_shape=(3,), hidden=(9, 6), likelihood="gaussian", scale=0.25)
AFFINE = replace(MLP, hidden=())
BOUNDED = replace(DIGITS, posterior="bounded")
CONFIGS = pytest.mark.parametrize(
    "config", [DIGITS, COLOUR, MLP, BOUNDED], ids=["digits", "colour", "mlp", "bounded digits"]
)
WEIGHTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def real(config, device="cpu"):
    return build(config).double().to(device)


def images(config, *leading, device="cpu"):
    return torch.rand(*leading, *config.image_shape, dtype=torch.float64, device=device)


def latents(config, *leading, device="cpu"):
    return torch.randn(*leading, *config.latent_shape, dtype=torch.float64, device=device)


def touching(network):
    """Pairs of adjacent weight layers without a nonlinearity or residual block between them."""
    layers = [module for module in network if not isinstance(module, nn.Flatten | nn.Unflatten)]
    return [pair for pair in pairwise(layers) if all(isinstance(layer, WEIGHTS) for layer in pair)]


def widths(network, kind):
    """(in, out) of layers of one type; (out, in) for transposed layers, the order of torch's weights."""
    return [(layer.weight.shape[1], layer.weight.shape[0]) for layer in network if isinstance(layer, kind)]


@settings(max_examples=40)
@given(configs())
def test_every_architecture_maps_between_its_image_and_latent_shapes(config):
    vae = build(config)
    q = vae.posterior(images(config, 2).float())
    assert q.mean.shape == q.logvar.shape == (2, *config.latent_shape)
    p = vae.likelihood(q.rsample(3))
    assert p.mean.shape == (3, 2, *config.image_shape)
    assert p.log_prob(images(config, 2).float()).shape == (3, 2)


@settings(max_examples=40)
@given(configs())
def test_the_decoder_mirrors_the_encoder(config):
    vae = build(config)
    encoder, decoder = vae.encoder.network, vae.decoder.network
    down, up = widths(encoder, Downsample), widths(decoder, Upsample)
    inwards, outwards = widths(encoder, nn.Linear), widths(decoder, nn.Linear)
    fine, coarse = (
        [block.first.in_channels for block in side if isinstance(block, Residual)] for side in (encoder, decoder)
    )
    assert down == list(pairwise(config.channels))
    assert up[: len(down)] == down[::-1]  # with stride 2 one more leads to the image
    assert [outputs for _, outputs in inwards[:-1]] == [inputs for inputs, _ in outwards[:0:-1]] == list(config.hidden)
    assert fine == coarse[::-1]
    assert fine == [width for width, count in zip(config.channels, config.blocks, strict=True) for _ in range(count)]


@settings(max_examples=40)
@given(configs())
def test_the_decoder_has_a_nonlinearity_between_any_two_layers_of_weights(config):
    assert not touching(build(config).decoder.network)


@pytest.mark.parametrize("blocks", [(0, 0), (1, 0), (1, 1)], ids=str)
def test_the_encoder_has_a_nonlinearity_between_any_two_layers_of_weights(blocks):
    assert not touching(build(replace(DIGITS, blocks=blocks)).encoder.network)


def test_networks_without_hidden_layers_are_affine_and_others_are_not():
    def bend(config):
        x, z, vae = images(config, 2), latents(config, 2), real(config)
        middle = vae.posterior(x.mean(0, keepdim=True)).mean - vae.posterior(x).mean.mean(0)
        raw = vae.likelihood(z.mean(0, keepdim=True)).logits - vae.likelihood(z).logits.mean(0)
        return middle.abs().max().item(), raw.abs().max().item()

    assert max(bend(AFFINE)) < 1e-12
    assert min(bend(MLP)) > 1e-6


def test_inputs_are_centred_at_mid_grey():
    vae, x = real(AFFINE), images(AFFINE, 3)
    nn.init.zeros_(vae.encoder.network[1].bias)
    assert_close(vae.posterior(1 - x).mean, -vae.posterior(x).mean)


@CONFIGS
def test_the_posterior_of_an_image_is_independent_of_its_batch(config, device):
    vae, x = real(config, device), images(config, 5, device=device)
    together = vae.posterior(x)
    for row in range(5):
        alone = vae.posterior(x[row : row + 1])
        assert_close((alone.mean[0], alone.logvar[0]), (together.mean[row], together.logvar[row]))


@CONFIGS
@pytest.mark.parametrize("leading", [(), (0,), (4,), (2, 3), (2, 1, 3)], ids=str)
def test_the_image_of_a_latent_is_independent_of_its_batch(config, leading, device):
    vae, z = real(config, device), latents(config, *leading, device=device)
    together = vae.likelihood(z)
    assert together.mean.shape == (*leading, *config.image_shape)
    rows = together.mean.reshape(-1, *config.image_shape)
    for latent, row in zip(z.reshape(-1, *config.latent_shape), rows, strict=True):
        assert_close(vae.likelihood(latent).mean, row)


@CONFIGS
def test_extreme_encoder_outputs_have_finite_posteriors_and_scores(config, device):
    vae = build(config).to(device)
    with torch.no_grad():
        [layer for layer in vae.encoder.modules() if isinstance(layer, WEIGHTS)][-1].weight.mul_(1e3)
    x = images(config, 20, device=device).float().round()
    assert vae.posterior(x).std.isfinite().all()
    found = bounds(vae, x, samples=4)
    assert all(term.isfinite().all() for term in (*found.elbo, found.log_likelihood))


@pytest.mark.parametrize("limits", [MEAN_LIMITS, LOGVAR_LIMITS])
def test_a_smooth_limit_has_slope_1_at_its_centre_and_keeps_all_values_inside(limits):
    values = torch.linspace(-200, 200, 4001, dtype=torch.float64, requires_grad=True)
    limited = limits.apply(values)
    assert ((limited >= limits.low) & (limited <= limits.high)).all()
    assert (limited.diff() >= 0).all()
    centre = torch.tensor(limits.centre, dtype=torch.float64, requires_grad=True)
    at_centre = limits.apply(centre)
    assert_close(at_centre.item(), limits.centre)
    assert_close(torch.autograd.grad(at_centre, centre)[0].item(), 1.0)


def test_a_bounded_posterior_stays_near_the_prior_for_any_image(device):
    vae = build(BOUNDED).to(device)
    with torch.no_grad():
        [layer for layer in vae.encoder.modules() if isinstance(layer, WEIGHTS)][-1].weight.mul_(1e6)
    q = vae.posterior(images(BOUNDED, 20, device=device).float().round())
    assert (q.std**2).max() <= exp(3) * (1 + 1e-6)
    assert q.kl_to_standard().max() <= 61 * 4


def test_a_config_without_the_field_keeps_its_clamped_posterior():
    values = {name: value for name, value in DIGITS.as_dict().items() if name != "posterior"}
    vae = build(VAEConfig.from_dict(values))
    x = images(DIGITS, 3).float()
    mean, logvar = vae.encoder.network(2 * x - 1).chunk(2, dim=1)
    q = vae.posterior(x)
    assert torch.equal(q.mean, mean)
    assert torch.equal(q.logvar, logvar.clamp(-20, 20))


@CONFIGS
def test_latents_depend_on_every_pixel_and_every_pixel_on_the_latents(config, device):
    vae, x = real(config, device), images(config, 2, device=device).requires_grad_()
    q, p = vae.posterior(x), vae.likelihood(latents(config, 2, device=device))
    for half in (q.mean, q.logvar):
        (to_image,) = torch.autograd.grad(half.sum(), x, retain_graph=True)
        assert (to_image != 0).all()
        assert (half[0] != half[1]).all()
    assert (p.mean[0] != p.mean[1]).all()


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 5)], ids=str)
def test_a_spatial_latent_has_a_local_receptive_field(place):
    config = VAEConfig(image_shape=(1, 5, 6), latent_shape=(2, 5, 6), channels=(4,), blocks=(0,))
    vae, x, z = real(config), images(config, 1).requires_grad_(), latents(config).requires_grad_()
    around = torch.zeros(5, 6, dtype=torch.bool)
    around[max(0, place[0] - 1) : place[0] + 2, max(0, place[1] - 1) : place[1] + 2] = True
    (seen,) = torch.autograd.grad(vae.posterior(x).mean[0, :, *place].sum(), x)
    (painted_by,) = torch.autograd.grad(vae.likelihood(z).mean[:, *place].sum(), z)
    assert torch.equal(seen[0, 0] != 0, around)
    assert torch.equal(painted_by != 0, around.expand(2, -1, -1))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_decoder_uses_the_likelihood_and_scale_of_its_config(name):
    config = replace(AFFINE, likelihood=name)
    vae, z, x = real(config), latents(config, 3), images(config, 3)
    p = vae.likelihood(z)
    raw = vae.decoder.network(z)
    assert type(p) is FAMILIES[name]
    assert_close(p.log_prob(x), FAMILIES[name](raw, 0.25).log_prob(x))


@CONFIGS
def test_the_prior_is_standard_normal_with_dtype_and_device_of_the_weights(config, device):
    vae = real(config, device)
    prior = vae.prior(5)
    assert (prior.mean.shape, prior.mean.dtype) == ((5, *config.latent_shape), torch.float64)
    assert prior.mean.device == next(vae.parameters()).device
    assert (prior.kl_to_standard() == 0).all()
    assert vae.likelihood(vae.prior().rsample()).mean.shape == (1, 1, *config.image_shape)


@CONFIGS
def test_distributions_keep_the_dtype_of_their_inputs_under_autocast(config, device):
    vae = build(config).to(device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        q = vae.posterior(images(config, 2, device=device).float())
        p = vae.likelihood(q.mean)
    assert q.mean.dtype == q.logvar.dtype == p.mean.dtype == torch.float32


def test_a_new_residual_block_is_the_identity():
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(Residual(3)(x), x)


def test_a_residual_block_adds_two_preactivated_convolutions():
    block, x = Residual(3).double(), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    for weight in block.parameters():
        nn.init.normal_(weight)
    inner = conv2d(silu(x), block.first.weight, block.first.bias, padding=1)
    assert_close(block(x), x + conv2d(silu(inner), block.second.weight, block.second.bias, padding=1))


def test_downsampling_halves_sizes_rounded_up_and_upsampling_restores_them():
    for height, width in product(range(1, 8), repeat=2):
        x = torch.randn(2, 3, height, width)
        coarse = Downsample(3, 5)(x)
        assert coarse.shape == (2, 5, (height + 1) // 2, (width + 1) // 2)
        assert Upsample(5, 3, (height, width))(coarse).shape == x.shape
