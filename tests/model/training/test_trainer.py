"""Tests of the training loop: rising ELBO, moving average, determinism, gradient clipping, divergence."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch

from model.config import VAEConfig
from model.elbo import elbo
from model.errors import OptionsError
from model.records import EpochRecord
from model.training.options import TrainingOptions
from model.training.trainer import AVERAGED_STEPS, Progress, Training, TrainingError, init_output_bias, new_vae

MLP = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), hidden=(64,))
CONV = VAEConfig(image_shape=(3, 9, 7), latent_shape=(5,), stride=2, channels=(8, 8), blocks=(1, 0), hidden=(16,))
QUICK = TrainingOptions(epochs=8, batch_size=64, learning_rate=4e-3, warmup=10, kl_warmup=0.0, ema=0.9)


def colourful(digits: np.ndarray, count: int = 300) -> np.ndarray:
    """Odd-sized colour images of digits, uint8 [N, 3, 9, 7]."""
    framed = np.pad(digits[:count], ((0, 0), (0, 0), (0, 1), (0, 0)))[..., :7]
    return np.concatenate([framed, framed // 2, 255 - framed], axis=1)


def weights(training: Training) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in training.average.parameters()]


def test_the_elbo_of_held_out_images_rises(digits: np.ndarray, device: str) -> None:
    training = Training(MLP, digits, replace(QUICK, holdout=200), device)
    records = list(training.epochs())
    held = [record.validation for record in records if record.validation is not None]
    assert [record.epoch for record in records] == list(range(1, 9))
    assert held == sorted(held)
    assert held[-1] > held[0] + 4
    assert held[-1] > -27.0  # nats; a model of independent pixels reaches -35.8


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian-learned", "logistic"])
def test_every_likelihood_learns_colour_images_of_odd_sizes(digits: np.ndarray, likelihood: str) -> None:
    config = replace(CONV, likelihood=likelihood)
    records = list(Training(config, colourful(digits), replace(QUICK, epochs=4, binarize="none")).epochs())
    assert records[-1].elbo > records[0].elbo + 10


def test_each_record_has_the_bound_and_its_terms(digits: np.ndarray) -> None:
    for record in Training(MLP, digits[:300], QUICK).epochs():
        assert record.elbo == pytest.approx(record.reconstruction - record.kl, abs=1e-3)
        assert record.kl > 0
        assert record.images_per_second * record.seconds == pytest.approx(300)
        assert record.validation is None


def test_bfloat16_gives_nearly_the_same_bound(digits: np.ndarray) -> None:
    options = replace(QUICK, epochs=3)
    ends = [
        list(Training(CONV, colourful(digits), replace(options, precision=name)).epochs())[-1].elbo
        for name in ("float32", "bfloat16")
    ]
    assert ends[0] == pytest.approx(ends[1], rel=0.01)
    assert ends[0] != ends[1]


def test_the_weights_depend_only_on_the_seed(digits: np.ndarray) -> None:
    ends = []
    for seed in (5, 5, 6):
        torch.rand(seed)  # draws from the global generator have no effect
        training = Training(MLP, digits[:200], replace(QUICK, epochs=2, seed=seed))
        list(training.epochs())
        ends.append(torch.cat([weight.flatten() for weight in weights(training)]))
    assert ends[0].equal(ends[1])
    assert not ends[0].equal(ends[2])


def test_training_does_not_use_the_global_generator(digits: np.ndarray) -> None:
    before = torch.get_rng_state()
    list(Training(MLP, digits[:100], replace(QUICK, epochs=1, holdout=10)).epochs())
    assert torch.get_rng_state().equal(before)


def test_held_out_images_are_not_trained_on(digits: np.ndarray) -> None:
    training = Training(MLP, digits, replace(QUICK, holdout=300))
    assert (len(training.images), len(training.heldout)) == (len(digits) - 300, 300)
    together = torch.cat([training.images, training.heldout]).flatten(1).numpy()
    assert np.array_equal(np.sort(together.view("V64").ravel()), np.sort(digits.reshape(-1, 64).view("V64").ravel()))


def test_validation_images_may_be_given(digits: np.ndarray) -> None:
    training = Training(MLP, digits[:300], replace(QUICK, epochs=1), validation=digits[300:350])
    assert (len(training.images), len(training.heldout)) == (300, 50)
    assert next(training.epochs()).validation is not None


@pytest.mark.parametrize(
    ("options", "samples"), [({"objective": "iwae"}, 5), ({"objective": "dreg"}, 5), ({"beta": 2.0}, 1)]
)
def test_the_climbed_bound_is_recorded_with_the_elbo(digits: np.ndarray, options, samples: int) -> None:
    training = Training(MLP, digits[:300], replace(QUICK, epochs=2, holdout=50, samples=samples, **options))
    for record in training.epochs():
        above = 1 if samples > 1 else -1  # the importance-weighted bound is tighter, beta above 1 looser
        assert (record.objective - record.elbo) * above > 0
        assert (record.objective_validation - record.validation) * above > 0
        assert record.climbed_validation == record.objective_validation


def test_the_elbo_alone_is_recorded_if_it_is_the_objective(digits: np.ndarray) -> None:
    record = next(Training(MLP, digits[:300], replace(QUICK, holdout=50)).epochs())
    assert (record.objective, record.objective_validation) == (None, None)
    assert record.climbed_validation == record.validation


def scored(training: Training, *scores: float | None) -> Training:
    """The training after an epoch with each of these validations."""
    records = [EpochRecord(n, -9.0, -8.0, 1.0, score, 0.0, 1.0, 1.0) for n, score in enumerate(scores, 1)]
    training.continue_from(0, records, None)
    return training


def test_the_best_epoch_has_the_best_validation_or_is_the_last(digits: np.ndarray) -> None:
    training = Training(MLP, digits[:64], QUICK)
    assert scored(training).best_epoch == 0
    assert scored(training, -3.0, -1.0, -2.0).best_epoch == 2
    assert scored(training, None, None).best_epoch == 2


def test_a_training_ends_after_so_many_epochs_without_a_better_validation(digits: np.ndarray) -> None:
    training = Training(MLP, digits[:64], replace(QUICK, patience=2))
    assert not scored(training, -3.0, -1.0, -2.0).is_finished
    assert scored(training, -3.0, -1.0, -2.0, -1.5).is_finished
    assert list(training.epochs()) == []
    assert not scored(Training(MLP, digits[:64], QUICK), -1.0, -2.0, -3.0, -4.0).is_finished


def test_augmentation_changes_what_is_trained_on(digits: np.ndarray) -> None:
    plain, flipped = (
        next(Training(MLP, digits[:64], replace(QUICK, augment=name)).epochs()) for name in ("", "flip,crop")
    )
    assert plain.elbo != flipped.elbo


def test_all_images_cannot_be_held_out(digits: np.ndarray) -> None:
    with pytest.raises(OptionsError, match="holdout: expected fewer than the 50 training images, got 50"):
        Training(MLP, digits[:50], replace(QUICK, holdout=50))


def test_progress_is_reported_after_each_step_and_ends_at_the_record(digits: np.ndarray) -> None:
    steps: list[Progress] = []
    records = list(Training(MLP, digits[:150], replace(QUICK, epochs=2)).epochs(steps.append))
    assert [(step.epoch, step.step, step.steps) for step in steps] == [(e, s, 3) for e in (1, 2) for s in (1, 2, 3)]
    assert [steps[2].elbo, steps[5].elbo] == [record.elbo for record in records]


def test_progress_is_reported_at_most_once_an_interval(digits: np.ndarray) -> None:
    steps: list[Progress] = []
    list(Training(MLP, digits[:150], replace(QUICK, epochs=2)).epochs(steps.append, interval=1e6))
    assert [(step.epoch, step.step) for step in steps] == [(1, 1), (2, 1)]


def test_the_average_is_the_exponential_moving_average_of_the_weights(digits: np.ndarray) -> None:
    """It is updated after every fourth step and the last one, by the decay of as many steps."""
    training = Training(MLP, digits[:340], replace(QUICK, epochs=2))
    expected, updated = weights(training), []

    def follow(step: Progress) -> None:
        if step.step % AVERAGED_STEPS and step.step < step.steps:
            return
        done = (step.epoch - 1) * step.steps + step.step
        steps = step.step - (updated[-1][1] if updated and updated[-1][0] == step.epoch else 0)
        decay = min(QUICK.ema, done / (9 + done)) ** steps
        for average, weight in zip(expected, training.vae.parameters(), strict=True):
            average.mul_(decay).add_(weight.detach() * (1 - decay))
        updated.append((step.epoch, step.step))

    list(training.epochs(follow))
    assert updated == [(1, 4), (1, 6), (2, 4), (2, 6)]
    for average, kept in zip(expected, training.average.parameters(), strict=True):
        torch.testing.assert_close(average, kept)


def test_a_step_increases_the_bound(digits: np.ndarray) -> None:
    """With one batch, one fixed binarisation (none) and a small rate, the bound is higher after each step."""
    options = replace(QUICK, epochs=30, batch_size=100, binarize="none", samples=32, learning_rate=5e-4, ema=0.0)
    training = Training(MLP, digits[:100], options)
    x, noise = torch.tensor(digits[:100]) / 255, torch.randn(64, 100, 4, generator=torch.Generator().manual_seed(1))
    bounds = [elbo(training.average, x, noise=noise).total.mean().item() for _ in training.epochs()]
    assert sorted(bounds) == bounds


def test_the_gradient_is_clipped_to_its_norm(digits: np.ndarray) -> None:
    training = Training(MLP, digits[:64], replace(QUICK, epochs=1, clip=0.01))
    list(training.epochs())
    norm = torch.stack([weight.grad.norm() for weight in training.vae.parameters() if weight.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_an_elbo_that_is_not_finite_ends_the_training(digits: np.ndarray) -> None:
    options = replace(QUICK, learning_rate=9.0, clip=0.0, warmup=0, binarize="none")
    config = replace(MLP, hidden=(16,) * 24)
    with pytest.raises(TrainingError, match=r"epoch \d: the ELBO is -?(nan|inf); try a lower learning rate"):
        list(Training(config, digits[:300], options).epochs())


def test_a_held_out_elbo_that_is_not_finite_ends_the_training(digits: np.ndarray) -> None:
    options = replace(
        QUICK, learning_rate=10.0, clip=0.0, warmup=0, binarize="none", ema=0.0, holdout=20, batch_size=99
    )
    message = r"epoch \d: the ELBO of the held-out images is -?(nan|inf); try a lower learning rate"
    with pytest.raises(TrainingError, match=message):
        list(Training(replace(MLP, hidden=(64,) * 40), digits[:99], options).epochs())


@pytest.mark.parametrize(
    "config", [MLP, CONV, replace(MLP, likelihood="logistic"), replace(CONV, likelihood="gaussian-learned")]
)
def test_the_initial_output_bias_is_the_logit_of_the_mean_pixel(digits: np.ndarray, config: VAEConfig) -> None:
    images = digits if config.image_shape[0] == 1 else colourful(digits)
    untouched, vae = new_vae(config, 0), new_vae(config, 0)
    init_output_bias(vae, images)
    names = [name for name, _ in vae.decoder.named_parameters() if name.endswith("bias")]
    before, after = untouched.decoder.get_parameter(names[-1]), vae.decoder.get_parameter(names[-1])
    location, rest = (
        after[: len(after) // vae.decoder.family.params_per_channel],
        len(after) // vae.decoder.family.params_per_channel,
    )
    torch.testing.assert_close(torch.sigmoid(location), torch.full_like(location, images.mean() / 255))
    assert after[rest:].equal(before[rest:])


def test_the_output_bias_is_finite_for_black_images() -> None:
    vae = new_vae(MLP, 0)
    init_output_bias(vae, np.zeros((3, 1, 8, 8), np.uint8))
    assert all(weight.isfinite().all() for weight in vae.parameters())
    assert exp(min(weight.min().item() for weight in vae.decoder.parameters())) == pytest.approx(1e-3, rel=0.01)


def test_a_record_is_rebuilt_from_its_fields(digits: np.ndarray) -> None:
    record = next(Training(MLP, digits[:64], QUICK).epochs())
    assert EpochRecord(**{name: getattr(record, name) for name in EpochRecord.__slots__}) == record
