"""Training loop: maximises a bound on log p(x) with Adam (Kingma and Welling 2014, algorithm 1).

    L(x) = -objective(x),   by default the ELBO: E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))

The loss is the only place where the sign is reversed; all other values are higher for better models. A moving average
of the weights is kept, evaluated and saved.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf, isfinite, log
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint
from model.config import VAEConfig
from model.data.arrays import DataError, Images, digest
from model.device import autocast
from model.errors import OptionsError, UserError
from model.pixels import to_pixels
from model.records import EpochRecord
from model.training import schedules
from model.training.augment import augment
from model.training.objectives import OBJECTIVES, ObjectiveValue
from model.training.options import TrainingOptions
from model.training.weight_norm import apply_weight_norm, data_dependent_init, effective_weights
from model.vae import VAE


class TrainingError(UserError):
    """Training that diverged; the message names the epoch and what to try."""


class Means(NamedTuple):
    """Means of the ELBO, its two terms and the objective over images, in nats per image."""

    elbo: float
    reconstruction: float
    kl: float
    objective: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an epoch after a step, with the means over its batches so far, in nats."""

    epoch: int
    epochs: int
    step: int
    steps: int
    elbo: float
    reconstruction: float
    kl: float
    objective: float
    images_per_second: float


INIT_IMAGES = 512
"""Number of images for data-dependent initialisation."""

FIRST_LOGVAR = -4.5
"""Shift of log sigma^2 of an untrained posterior: a standard deviation of about 0.1."""

MEASURED_SECONDS = 3.0
MEASURED_WARMUP = 3
"""Seconds for which the speed is measured, after some steps that are not counted."""

AVERAGED_STEPS = 4
"""Steps after which the average of the weights is updated, besides the last step of an epoch.

Each time takes a twentieth of a step of a small network.
"""

ProgressCallback = Callable[[Progress], None]


def new_vae(config: VAEConfig, seed: int) -> VAE:
    """Build a VAE with initial weights drawn from `seed`; the global random generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(config)


def init_output_bias(vae: VAE, images: Images) -> None:
    """Set the decoder's output bias to the logit of the mean training pixel: the mean of a likelihood is a sigmoid."""
    share = min(max(float(images.mean()) / 255, 1e-3), 1 - 1e-3)
    family = vae.decoder.family
    bias = [weight for name, weight in vae.decoder.named_parameters() if name.endswith("bias")][-1]
    with torch.no_grad():
        bias.view(family.params_per_channel, -1)[0] = log(share / (1 - share))


def narrow_posterior(vae: VAE) -> None:
    """Lower the encoder's bias of logvar, so that the first latents differ by more than their noise."""
    bias = [weight for name, weight in vae.encoder.named_parameters() if name.endswith("bias")][-1]
    with torch.no_grad():
        bias[len(bias) // 2 :] += FIRST_LOGVAR


class Training:
    """State of a training: `vae` has the raw weights, `average` their moving average, which is saved.

    `images` are uint8 [N, C, H, W]. They stay on the device; each epoch draws binary pixels and the order anew. All
    random numbers come from `generator`, so a training with the same options, data and device gives the same weights.
    `start` is a trained model of the same config that provides the initial weights. `validation` are images that are
    held out in place of `holdout` training images. Raises `DataError` without an image,
    `OptionsError` if none is left to train on.
    """

    def __init__(
        self,
        config: VAEConfig,
        images: Images,
        options: TrainingOptions,
        device: torch.device | str = "cpu",
        start: Checkpoint | None = None,
        validation: Images | None = None,
    ) -> None:
        _check_number(images, options.holdout)
        torch.backends.cudnn.deterministic = True  # else a resumed training on a GPU has other bits
        self.options = options
        self.data = digest(images)
        self.start = start.digest if start else None
        self.records: list[EpochRecord] = []
        self.step = 0
        order = np.random.default_rng(options.seed).permutation(len(images))
        heldout = images[np.sort(order[: options.holdout])] if validation is None else validation
        self.heldout = torch.tensor(heldout, device=device)
        self.images = torch.tensor(images[np.sort(order[options.holdout :])], device=device)
        self.steps_per_epoch = -(-len(self.images) // options.batch_size)
        vae = _initial_vae(config, images, options.seed, start)
        self.vae = vae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        self.average = deepcopy(self.vae).requires_grad_(False)
        self.generator = torch.Generator(device).manual_seed(options.seed)
        if not start and (options.weight_norm or options.init == "data"):
            data_dependent_init(self.vae, self._batch(self.images[:INIT_IMAGES]), self.generator)
        if not start and options.init == "data":
            narrow_posterior(self.vae)
        if options.weight_norm:
            apply_weight_norm(self.vae, self.generator)
        self._update_ema(share=1.0)
        self.optimizer = torch.optim.Adam(self.vae.parameters(), lr=options.learning_rate, fused=True)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.records)

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation of the objective, the last one without held-out images."""
        scores = [record.climbed_validation for record in self.records]
        numbers = [-inf if score is None else score for score in scores]
        return len(scores) - numbers[::-1].index(max(numbers)) if numbers else 0

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or `patience` epochs since the best one."""
        is_early = 0 < self.options.patience <= self.epoch - self.best_epoch
        return self.epoch >= self.options.epochs or is_early

    def continue_from(self, step: int, records: Iterable[EpochRecord], start: str | None) -> None:
        """Set the step, the finished epochs and the digest of the starting model, as a snapshot has them."""
        self.step, self.records, self.start = step, list(records), start

    def epochs(self, progress: ProgressCallback | None = None, interval: float = 0.0) -> Iterator[EpochRecord]:
        """Run the remaining epochs and yield a record after each.

        `progress` is called after a step if `interval` seconds have passed since the last call, since it waits for the
        device; by default after each step.
        """
        while not self.is_finished:
            self.records.append(self._epoch(progress, interval))
            yield self.records[-1]

    def change_length(self, epochs: int) -> None:
        """Set the number of epochs, at least those that are finished; the learning rate follows the new length."""
        self.options = replace(self.options, epochs=max(epochs, self.epoch))

    def train_on(self, rows: Tensor) -> Tensor:
        """Do one step with the images of these rows; return the sums of ELBO, its terms and objective, [4]."""
        levels = augment(self.images[rows], self.options.augmentations, self.generator)
        return self._step(self._batch(levels))

    def _epoch(self, progress: ProgressCallback | None, interval: float) -> EpochRecord:
        start, seen, shown = perf_counter(), 0, -inf
        sums = torch.zeros(4, dtype=torch.float64, device=self.images.device)
        order = torch.randperm(len(self.images), generator=self.generator, device=self.images.device)
        for number, rows in enumerate(torch.split(order, self.options.batch_size), start=1):
            sums += self.train_on(rows)
            seen += len(rows)
            if progress and perf_counter() - shown >= interval:
                shown = perf_counter()
                speed = seen / (shown - start)
                place = (self.epoch + 1, self.options.epochs, number, self.steps_per_epoch)
                progress(Progress(*place, *_means(sums, seen), speed))
        means = _means(sums, seen)
        self._require_finite("ELBO", means.elbo)
        rate, seconds = self.optimizer.param_groups[0]["lr"], perf_counter() - start
        elbo, climbed = self._validation() or (None, None)
        self._require_finite("ELBO of the held-out images", elbo or 0.0)
        others = () if self.options.is_elbo else (means.objective, climbed)
        return EpochRecord(self.epoch + 1, *means[:3], elbo, rate, seen / seconds, seconds, *others)

    def _require_finite(self, name: str, bound: float) -> None:
        if not isfinite(bound):
            raise TrainingError(f"epoch {self.epoch + 1}: the {name} is {bound}; try a lower learning rate")

    def _step(self, x: Tensor) -> Tensor:
        rate = schedules.learning_rate(self.options, self.step, self.options.epochs * self.steps_per_epoch)
        self.optimizer.param_groups[0]["lr"] = rate
        noise = self._noise(self.options.samples, len(x), self.generator)
        beta = schedules.kl_weight(self.options, self.step / self.steps_per_epoch)
        with autocast(self.options.precision, x.device):
            value = OBJECTIVES[self.options.objective](self.vae, x, noise, beta)
        loss = -value.objective.mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if self.options.clip:
            self._clip_gradients()
        self.optimizer.step()
        self.step += 1
        self._average()
        return _sums(value)

    def _average(self) -> None:
        """Update the average of the weights if the step is one of those that do."""
        place = (self.step - 1) % self.steps_per_epoch + 1
        if place % AVERAGED_STEPS == 0 or place == self.steps_per_epoch:
            steps = (place - 1) % AVERAGED_STEPS + 1
            self._update_ema(share=1 - schedules.ema_decay(self.options, self.step - 1) ** steps)

    def _clip_gradients(self) -> None:
        """Limit the norm of all gradients; on a GPU they are scaled in any case, as a comparison waits for the norm."""
        weights = [weight for weight in self.vae.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if norm.is_cuda or norm > self.options.clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self.options.clip, norm)

    @torch.no_grad()
    def _update_ema(self, share: float) -> None:
        weights = effective_weights(self.vae)
        names, averages = zip(*self.average.named_parameters(), strict=True)
        torch._foreach_lerp_(averages, [weights[name] for name in names], share)

    @torch.inference_mode()
    def _validation(self) -> tuple[float, float] | None:
        """Return the means of the ELBO and of the objective over the held-out images, None without any."""
        if not len(self.heldout):
            return None
        # Each epoch uses the same binary pixels and the same noise, so that epochs can be compared.
        generator = torch.Generator(self.heldout.device).manual_seed(self.options.seed)
        draws = 1 if self.options.objective == "elbo" else self.options.samples
        sums = torch.zeros(4, dtype=torch.float64, device=self.heldout.device)
        for levels in torch.split(self.heldout, self.options.batch_size):
            x = self._pixels(levels, generator)
            noise = self._noise(draws, len(x), generator)
            with autocast(self.options.precision, x.device):
                sums += _sums(OBJECTIVES[self.options.objective](self.average, x, noise, self.options.beta))
        means = _means(sums, len(self.heldout))
        return means.elbo, means.objective

    def _batch(self, levels: Tensor) -> Tensor:
        return self._pixels(levels, self.generator).contiguous(memory_format=torch.channels_last)

    def _pixels(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        return to_pixels(levels, self.options.binarize, generator)

    def _noise(self, samples: int, count: int, generator: torch.Generator) -> Tensor:
        shape = (samples, count, *self.vae.config.latent_shape)
        return torch.randn(shape, generator=generator, device=generator.device)


def measure_speed(training: Training, seconds: float = MEASURED_SECONDS) -> float:
    """Train for some seconds and return the images per second; the training is of no further use.

    At most a fiftieth of the images of the whole training are counted.
    """
    rows = torch.arange(len(training.images), device=training.images.device)[: training.options.batch_size]
    for _ in range(MEASURED_WARMUP):
        training.train_on(rows)
    start, seen = perf_counter(), 0
    most = training.options.epochs * len(training.images) / 50
    while not seen or (perf_counter() - start < seconds and seen < most):
        training.train_on(rows).tolist()  # waits for the device
        seen += len(rows)
    return seen / (perf_counter() - start)


def _check_number(images: Images, holdout: int) -> None:
    if not len(images):
        raise DataError("images: expected at least one to train on, got none")
    if len(images) <= holdout:
        raise OptionsError(f"holdout: expected fewer than the {len(images)} training images, got {holdout}")


def _initial_vae(config: VAEConfig, images: Images, seed: int, start: Checkpoint | None) -> VAE:
    vae = new_vae(config, seed)
    if start:
        vae.load_state_dict(start.vae.state_dict())
    else:
        init_output_bias(vae, images)
    return vae


def _sums(value: ObjectiveValue) -> Tensor:
    """Return the sums of ELBO, reconstruction, KL divergence and objective over a batch, [4] in float64."""
    return torch.stack([*value.elbo, value.objective]).detach().sum(1, dtype=torch.float64)


def _means(sums: Tensor, count: int) -> Means:
    return Means(*(sums / count).tolist())
