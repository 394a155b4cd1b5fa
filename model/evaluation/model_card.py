"""The model card: what a checkpoint is, how it was trained, how good it is and what it is not for, as its README.md."""

from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint, read_checkpoint, write_atomically
from model.config import VAEConfig
from model.elbo_percentiles import Reference

CARD = "README.md"
TITLE = ": a Variational Autoencoder"
PICTURES = {
    "learning": "The learning curve.",
    "reconstructions": "Images of the data, each row above its reconstructions.",
    "samples": "The means of p(x given z) for z drawn from the prior.",
    "traversal": "Each row moves one of the most active latents of one image from -3 to 3.",
}
LIMITS = """\
- It knows images like those it was trained on. Anything else is encoded all the same, and answered with what resembles
  it most.
- A high log-likelihood does not mean that an image is of the training kind: deep generative models can score foreign
  images higher (Nalisnick et al. 2019). Scores compare models on one data set, or images of one kind.
- Both bounds are below log p(x); the importance-weighted one comes closer with every draw K.
- Pictures show means, which are smoother than draws of p(x given z)."""
PUBLISHED = """\
Of the same class, one layer of latents with a diagonal Gaussian posterior, the prior N(0, I) and a factorised
Bernoulli likelihood, trained on MNIST dynamically binarised, these are published:

| model | -ELBO | -log p(x) | K |
|---|---|---|---|
| residual VAE, 32 latents (Kingma et al. 2016, diagonal baseline of IAF) | 84.08 ± 0.10 | 81.08 ± 0.08 | 128 |
| residual VAE, 40 latents (Xu et al., the baseline of the RealNVP prior) | 84.62 | 81.07 | 1000 |
| gated MLP 2x300, 40 latents (the Gaussian-prior baseline of the Exemplar VAE) | | 84.45 ± 0.12 | 5000 |
| tanh MLP 2x200, 50 latents (Burda et al. 2016): VAE | | 86.76 | 5000 |
| the same, IWAE with 50 samples | | 84.78 | 5000 |"""
BINARY = """
- Pixels were drawn as black or white in training: a grey value in an answer is the probability of white."""


def write_card(folder: Path) -> bool:
    """Render README.md anew from what lies in the folder: config, weights, metrics and pictures.

    A README.md that is no card of a model is left as it is; whether the card was written.
    """
    if not _may_be_written(folder / CARD):
        return False
    pictures = [name for name in PICTURES if (folder / "pictures" / f"{name}.png").exists()]
    write_atomically(folder / CARD, render_card(read_checkpoint(folder), pictures).encode())
    return True


def _may_be_written(path: Path) -> bool:
    """Whether there is no file, or a card, which has a title like no other README.md."""
    try:
        with path.open("rb") as file:
            return file.readline(1000).rstrip().endswith(TITLE.encode())
    except FileNotFoundError:
        return True


def render_card(checkpoint: Checkpoint, pictures: list[str]) -> str:
    """The card in Markdown; what is not known is not spoken of."""
    training, evaluations = checkpoint.metrics.get("training"), checkpoint.metrics.get("evaluations", [])
    parts = [
        f"# {checkpoint.name}{TITLE}",
        _summary(checkpoint.vae.config, training),
        f"## How good it is\n\n{_figures(evaluations)}",
        *_published(training),
        *_grey(checkpoint.metrics.get("inputs")),
        *_strangers(checkpoint.reference),
        f"## How it was trained\n\n{_training(training)}",
        f"## The architecture\n\n{_table('field', checkpoint.vae.config.as_dict())}\n\n{_weights(checkpoint)}",
        *(f"![{name}](pictures/{name}.png)\n\n{PICTURES[name]}" for name in pictures),
        f"## Limits of use\n\n{LIMITS}{BINARY if _is_binary(training) else ''}",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(config: VAEConfig, training: dict[str, Any] | None) -> str:
    image, latent = ("x".join(map(str, shape)) for shape in (config.image_shape, config.latent_shape))
    data = f", trained on {_trained(training):,} images ({training['data']['source']})" if training else ""
    return f"Images of {image} to latents of {latent} and back, with a {config.likelihood} likelihood{data}."


def _trained(training: dict[str, Any]) -> int:
    count: int = training["data"]["train"] - training["options"]["holdout"]
    return count


def _figures(evaluations: list[dict[str, Any]]) -> str:
    most = max((evaluation["images"] for evaluation in evaluations), default=0)
    largest = [evaluation for evaluation in evaluations if evaluation["images"] == most]
    return "\n\n".join(map(_evaluated, largest)) or "Not evaluated yet: `vae evaluate --save` fills this in."


def _evaluated(evaluation: dict[str, Any]) -> str:
    error = f" ± {evaluation['standard_error']:.2f}" if evaluation["standard_error"] is not None else ""
    rows = {
        f"log p(x), bound with K = {evaluation['samples']}": f"{evaluation['log_likelihood']:.2f}{error} nats",
        "ELBO": f"{evaluation['elbo']:.2f} nats",
        "reconstruction": f"{evaluation['reconstruction']:.2f} nats",
        "KL": f"{evaluation['kl']:.2f} nats",
        "bits per dimension": f"{evaluation['bits_per_dim']:.4f}",
        "active units": f"{evaluation['active_units']} of {evaluation['units']}",
    }
    drawn = f", binarised once with seed {evaluation['seed']}" if evaluation["binarize"] == "dynamic" else ""
    about = f"Means over {evaluation['images']:,} images of the {evaluation['split']}{drawn}."
    sure = "\n± is the standard error of the mean over the images." if error else ""
    took = f"Networks in {evaluation['precision']}; {_time(evaluation['seconds'])} on {evaluation['device']}."
    return f"{_table('figure', rows)}\n\n{about}{sure}\n{took}\n\n    {evaluation['command']}"


def _published(training: dict[str, Any] | None) -> list[str]:
    return [PUBLISHED] if training and _is_binary(training) and training["data"]["source"] == "MNIST" else []


def _grey(inputs: dict[str, Any] | None) -> list[str]:
    if inputs is None:
        return []
    known = {name: inputs[name] for name in ("grey", "threshold", "draw")}
    rows = [f"| {name} | {found['error']:.4f} | {found['divergence']:.2f} |" for name, found in known.items()]
    table = "\n".join(["| encoded as | error of the reconstruction | KL(q given draws to q) |", "|---|---|---|", *rows])
    return [
        "## Grey images\n\nTraining saw pixels drawn black or white. What to encode of a grey image: its levels as "
        f"they are (grey), black or white by the nearer (threshold), or one draw:\n\n{table}\n\n"
        "The error is the root mean square in units of the pixel range, the divergence in nats, over the evaluated "
        "images; lower is better. The service encodes the levels as they are."
    ]


def _strangers(reference: Reference | None) -> list[str]:
    if reference is None:
        return []
    low, middle, high = (reference.elbo[share] for share in (5, 50, 95))
    areas = {name: f"{share:.3f}" for name, share in reference.areas.items()}
    return [
        "## What its scores tell apart\n\nBy the ELBO of grey levels, as `/score` gives it: 5 % of the "
        f"{reference.whose} are below {low:.1f} nats, half below {middle:.1f}, 95 % below {high:.1f}; `percentile` is "
        "the place among them. The probability that one of them scores higher than a stranger, the area under the ROC "
        f"curve (0.5 is chance):\n\n{_table('strangers', areas)}"
    ]


def _training(training: dict[str, Any] | None) -> str:
    if training is None or not training["epochs"]:
        return "Nothing is recorded of it."
    last = training["epochs"][-1]
    took = f"{_time(training['seconds'])} on {training['device']}, torch {training['torch']}"
    held = "" if last["validation"] is None else f", on held-out images {last['validation']:.2f}"
    end = f"After {last['epoch']} epochs the ELBO of the training batches was {last['elbo']:.2f} nats{held}; {took}."
    digest = f"SHA-256 of the training images: `{training['data']['digest']}`."
    return f"    {training['command']}\n\n{end}\n\n{_table('option', training['options'])}\n\n{digest}"


def _weights(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.parameters:,} weights; SHA-256 of model.safetensors: `{checkpoint.digest}`."


def _time(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _is_binary(training: dict[str, Any] | None) -> bool:
    return training is not None and training["options"]["binarize"] == "dynamic"


def _table(title: str, rows: dict[str, Any]) -> str:
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {_text(value)} |" for name, value in rows.items())])


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
