"""Model card (Mitchell et al. 2019) of a checkpoint: its README.md with figures, training, architecture and limits."""

from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint, read_checkpoint
from model.config import VAEConfig
from model.elbo_percentiles import ElboPercentiles
from model.files import read_file, write_atomically
from model.records import EvaluationRecord, InputComparison, TrainingRecord

CARD, PICTURES = "README.md", "pictures"
TITLE = ": a Variational Autoencoder"
END = "<!-- End of the generated text. What stands below this line is kept when the card is written again. -->"
PLOTS = {
    "learning": "Learning curve.",
    "reconstructions": "Images of the data set, chosen at random, each row above its reconstructions.",
    "samples": "Means of p(x given z) for z drawn from the prior.",
    "traversal": "Latent traversal: each row varies one of the most active latents of one image from -3 to 3.",
}
LIMITS = """\
- The model represents images like those of its training set. Any other image is encoded as well, and reconstructed as
  the most similar image that the model can generate.
- A high log-likelihood does not show that an image is of the training distribution: deep generative models can assign
  higher likelihoods to other data sets (Nalisnick et al. 2019). Use scores to compare models on one data set, or images
  of one kind.
- Both bounds are below log p(x); the importance-weighted bound gets closer as K grows.
- Generated images are means of p(x given z), which are smoother than draws from it."""
PUBLISHED = """\
Published results of the same model class: one layer of latents, a diagonal Gaussian posterior, the prior N(0, I) and a
factorised Bernoulli likelihood, on dynamically binarised MNIST.

| model | -ELBO | -log p(x) | K |
|---|---|---|---|
| residual VAE, 32 latents (Kingma et al. 2016, diagonal baseline of IAF) | 84.08 ± 0.10 | 81.08 ± 0.08 | 128 |
| residual VAE, 40 latents (Xu et al., the baseline of the RealNVP prior) | 84.62 | 81.07 | 1000 |
| gated MLP 2x300, 40 latents (the Gaussian-prior baseline of the Exemplar VAE) | | 84.45 ± 0.12 | 5000 |
| tanh MLP 2x200, 50 latents (Burda et al. 2016): VAE | | 86.76 | 5000 |
| the same, IWAE with 50 samples | | 84.78 | 5000 |"""
BINARY = """
- Training drew pixels as black or white: a grey value in an image from this model is the probability of white."""

DISCRETISED = """
- A pixel of an image from this model is the mean of its logistic distribution before the discretisation to 256 levels.
  Near black and white the mean of the levels is closer to grey."""


def write_card(folder: Path) -> bool:
    """Write README.md from the config, weights, metrics and plots in `folder`; return whether it was written.

    What stands below the line `END` of an earlier card is kept. A README.md that is no model card is left unchanged.
    """
    path = folder / CARD
    before = read_file(path) if path.is_file() else b""
    if path.exists() and not before.partition(b"\n")[0].rstrip().endswith(TITLE.encode()):
        return False
    plots = [name for name in PLOTS if (folder / PICTURES / f"{name}.png").exists()]
    generated = f"{render_card(read_checkpoint(folder), plots)}\n{END}".encode()
    write_atomically(path, generated + (before.partition(END.encode())[2] or b"\n"))
    return True


def render_card(checkpoint: Checkpoint, plots: list[str]) -> str:
    """Render the card in Markdown; sections without data are left out."""
    metrics, config = checkpoint.metrics, checkpoint.vae.config
    binary = BINARY if metrics.training and metrics.training.is_binary else ""
    discretised = DISCRETISED if config.likelihood.startswith("logistic") else ""
    parts = [
        f"# {checkpoint.name}{TITLE}",
        _summary(config, metrics.training),
        f"## Evaluation\n\n{_evaluations(metrics.evaluations)}",
        *_published(metrics.training),
        *_input_encoding(metrics.inputs),
        *_out_of_distribution(metrics.reference),
        f"## Training\n\n{_training(metrics.training)}",
        f"## Architecture\n\n{_table('field', config.as_dict())}\n\n{_weights(checkpoint)}",
        *(f"![{name}]({PICTURES}/{name}.png)\n\n{PLOTS[name]}" for name in plots),
        f"## Limits of use\n\n{LIMITS}{binary}{discretised}{_augmentation(metrics.training)}",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(config: VAEConfig, training: TrainingRecord | None) -> str:
    image, latent = ("x".join(map(str, shape)) for shape in (config.image_shape, config.latent_shape))
    data = f", trained on {training.images:,} images ({training.data.source})" if training else ""
    return f"Images of shape {image}, latents of shape {latent}, {config.likelihood} likelihood{data}."


def _augmentation(training: TrainingRecord | None) -> str:
    kinds = training.options.values.get("augment") if training else ""
    return f"\n- Training images were changed at random: {kinds}." if kinds else ""


def _evaluations(evaluations: tuple[EvaluationRecord, ...]) -> str:
    most = max((evaluation.images for evaluation in evaluations), default=0)
    largest = [evaluation for evaluation in evaluations if evaluation.images == most]
    return "\n\n".join(map(_evaluation, largest)) or "Not evaluated yet; `vae evaluate --save` adds the figures."


def _evaluation(evaluation: EvaluationRecord) -> str:
    error = f" ± {evaluation.standard_error:.2f}" if evaluation.standard_error is not None else ""
    rows = {
        f"log p(x), bound with K = {evaluation.samples}": f"{evaluation.log_likelihood:.2f}{error} nats",
        "ELBO": f"{evaluation.elbo:.2f} nats",
        "reconstruction": f"{evaluation.reconstruction:.2f} nats",
        "KL": f"{evaluation.kl:.2f} nats",
        "bits per dimension": f"{evaluation.bits_per_dim:.4f}",
        "active units": f"{evaluation.active_units} of {evaluation.units}",
    }
    binarised = f", binarised once with seed {evaluation.seed}" if evaluation.binarize == "dynamic" else ""
    about = f"Means over {evaluation.images:,} images of the {evaluation.split}{binarised}."
    explained = "\n± is the standard error of the mean over the images." if error else ""
    run = f"Networks in {evaluation.precision}; {_duration(evaluation.seconds)} on {evaluation.device}."
    return f"{_table('figure', rows)}\n\n{about}{explained}\n{run}\n\n    {evaluation.command}"


def _published(training: TrainingRecord | None) -> list[str]:
    return [PUBLISHED] if training and training.is_binary and training.data.source == "MNIST" else []


def _input_encoding(inputs: InputComparison | None) -> list[str]:
    if inputs is None:
        return []
    known = {"grey": inputs.grey, "threshold": inputs.threshold, "draw": inputs.draw}
    rows = [f"| {name} | {quality.error:.4f} | {quality.divergence:.2f} |" for name, quality in known.items()]
    table = "\n".join(["| encoding | reconstruction error | KL(q given draws to q) |", "|---|---|---|", *rows])
    return [
        "## Grey images\n\nTraining drew pixels as black or white. A grey image can be encoded by its levels (grey), "
        f"by thresholded levels (threshold), or by one binary draw (draw):\n\n{table}\n\n"
        "The error is the root mean square in units of the pixel range, the divergence is in nats, both over the "
        "evaluated images; lower is better. The service encodes the grey levels."
    ]


def _out_of_distribution(reference: ElboPercentiles | None) -> list[str]:
    if reference is None:
        return []
    low, middle, high = (reference.elbo[percentile] for percentile in (5, 50, 95))
    auroc = {name: f"{share:.3f}" for name, share in reference.auroc.items()}
    return [
        "## Out-of-distribution detection\n\nELBO of grey levels, as `/score` returns it, over the "
        f"{reference.source}: 5 % are below {low:.1f} nats, 50 % below {middle:.1f}, 95 % below {high:.1f}. "
        "`percentile` of `/score` is relative to these images. AUROC of the ELBO for separating them from other data "
        f"sets (0.5 is chance):\n\n{_table('data set', auroc)}"
    ]


def _training(training: TrainingRecord | None) -> str:
    if training is None or not training.epochs:
        return "The training is not recorded."
    last = training.epochs[-1].epoch
    kept = next((record for record in training.epochs if record.epoch == training.best_epoch), training.epochs[-1])
    run = f"{_duration(training.seconds)} on {training.device}, torch {training.torch}"
    held_out = "" if kept.validation is None else f", on held-out images {kept.validation:.2f}"
    best = f"Epoch {kept.epoch} of {last} had the best validation, and its weights are kept:"
    which = best if kept.epoch < last else f"After {last} epochs"
    end = f"{which} the ELBO of the training batches was {kept.elbo:.2f} nats{held_out}; {run}."
    digest = f"SHA-256 of the training images: `{training.data.digest}`."
    return f"    {training.command}\n\n{end}\n\n{_table('option', training.options.values)}\n\n{digest}"


def _weights(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.parameters:,} weights; SHA-256 of model.safetensors: `{checkpoint.digest}`."


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _table(title: str, rows: dict[str, Any]) -> str:
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {_text(value)} |" for name, value in rows.items())])


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
