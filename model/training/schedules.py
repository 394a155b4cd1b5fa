"""Schedules of learning rate, KL weight and weight averaging.

    learning_rate(t) = learning_rate * min(1, (t + 1) / warmup) * 1/2 (1 + cos(pi t / T))   Loshchilov and Hutter (2017)
    kl_weight(t)     = beta min(1, t / (kl_warmup epochs))                  Bowman et al. (2016), Sonderby et al. (2016)
    ema_decay(t)     = min(ema, (1 + t) / (10 + t))                        discounts the first weights quickly

t is the step, T the number of steps.
"""

from math import cos, pi

from model.training.options import TrainingOptions


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the learning rate at `step` of `steps`."""
    ramp = min(1.0, (step + 1) / max(1, options.warmup))
    decay = 0.5 * (1 + cos(pi * step / steps)) if options.schedule == "cosine" else 1.0
    return options.learning_rate * ramp * decay


def kl_weight(options: TrainingOptions, epoch: float) -> float:
    """Return the weight of the KL divergence after `epoch` epochs, in [0, beta]."""
    return options.beta * (min(1.0, epoch / options.kl_warmup) if options.kl_warmup else 1.0)


def ema_decay(options: TrainingOptions, step: int) -> float:
    """Return the decay of the moving average of the weights at `step`, in [0, 1)."""
    return min(options.ema, (1 + step) / (10 + step))
