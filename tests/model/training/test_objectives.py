"""Tests of the training objectives: values of the bounds, and gradients of their papers."""

import pytest
import torch
from torch import Tensor

from model.config import VAEConfig
from model.elbo import bounds
from model.errors import OptionsError
from model.gaussian import DiagonalGaussian
from model.training.objectives import OBJECTIVES
from model.training.options import TrainingOptions
from model.vae import VAE

CONFIG = VAEConfig(image_shape=(1, 4, 4), latent_shape=(3,), hidden=(8,))
SIGMAS = 5


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(4)
    return VAE(CONFIG).double()


def batch(draws: int, images: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(draws)
    x = torch.rand((images, 1, 4, 4), generator=generator, dtype=torch.float64).round()
    return x, torch.randn((draws, images, 3), generator=generator, dtype=torch.float64)


def slopes(vae: VAE, name: str, x: Tensor, noise: Tensor, part: str, beta: float = 1.0) -> Tensor:
    objective = OBJECTIVES[name](vae, x, noise, beta).objective.sum()
    gradient = torch.autograd.grad(objective, list(getattr(vae, part).parameters()))
    return torch.cat([g.flatten() for g in gradient])


def many_gradients(vae: VAE, beta: float) -> list[Tensor]:
    """Gradients with respect to mean and logvar by iwae and by dreg, [1000, 6] each, from the same draws.

    All rows are of one image, so the gradients of the weights are the same linear function of every row.
    """
    x, _ = batch(4, images=1)
    noise = torch.randn((4, 1000, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients, outputs = [], []
    with vae.encoder.register_forward_hook(lambda _, inputs, q: outputs.append((q.mean, q.logvar))):
        for name in ("iwae", "dreg"):
            objective = OBJECTIVES[name](vae, x.expand(1000, -1, -1, -1), noise, beta).objective.sum()
            gradients.append(torch.cat(torch.autograd.grad(objective, outputs.pop()), 1))
    return gradients


def test_known_objectives_are_accepted_and_others_refused():
    for name in OBJECTIVES:
        assert TrainingOptions(objective=name).objective == name
    with pytest.raises(OptionsError, match="objective: expected elbo, iwae or dreg, got 'vampire'"):
        TrainingOptions(objective="vampire")


@pytest.mark.parametrize("draws", [1, 7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_value_is_the_bound_and_comes_with_the_elbo(vae, name, draws):
    x, noise = batch(draws)
    value, known = OBJECTIVES[name](vae, x, noise, 1.0), bounds(vae, x, draws, noise=noise)
    q = vae.posterior(x)
    reconstruction, kl = vae.likelihood(q.reparameterize(noise)).log_prob(x).mean(0), q.kl_to_standard()
    expected = known.log_likelihood if name != "elbo" else reconstruction - kl
    torch.testing.assert_close(value.objective, expected)
    for found, term in zip(value.elbo, (reconstruction - kl, reconstruction, kl), strict=True):
        torch.testing.assert_close(found, term)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_objective_without_kl_is_the_reconstruction(vae, name):
    x, noise = batch(1)
    value = OBJECTIVES[name](vae, x, noise, 0.0)
    torch.testing.assert_close(value.objective, value.elbo.reconstruction)


def test_dreg_and_iwae_have_the_same_decoder_gradient(vae):
    x, noise = batch(6)
    torch.testing.assert_close(slopes(vae, "dreg", x, noise, "decoder"), slopes(vae, "iwae", x, noise, "decoder"))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_encoder_gradient_of_dreg_is_that_of_its_formula(vae, beta):
    x, noise = batch(6)
    q = vae.posterior(x)
    through = q.reparameterize(noise)
    z = through.detach().requires_grad_()
    prior, fixed = DiagonalGaussian.standard(q.mean), DiagonalGaussian(q.mean.detach(), q.logvar.detach())
    log_weights = vae.likelihood(z).log_prob(x) + beta * (prior.log_prob(z) - fixed.log_prob(z))
    (to_z,) = torch.autograd.grad(log_weights.sum(), z)
    share = log_weights.detach().softmax(0)[..., None]
    factor = share * ((1 - beta) + beta * share)
    expected = torch.autograd.grad(through, list(vae.encoder.parameters()), factor * to_z)
    own = slopes(vae, "dreg", x, noise, "encoder", beta)
    torch.testing.assert_close(own, torch.cat([g.flatten() for g in expected]))


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_dreg_and_iwae_agree_in_expectation_for_any_kl_weight(vae, beta):
    iwae, dreg = many_gradients(vae, beta)
    difference = iwae - dreg
    error = difference.std(0) / len(difference) ** 0.5
    assert (difference.mean(0).abs() <= SIGMAS * error + 1e-12).all()


def test_dreg_has_lower_variance_than_iwae(vae):
    iwae, dreg = many_gradients(vae, 1.0)
    assert dreg.var(0).sum() < 0.5 * iwae.var(0).sum()
