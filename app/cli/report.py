"""Reports of a model: figures, plots and the model card. The only module that needs the extra `train`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.cli.progress import notify
from model.checkpoint import METRICS, Checkpoint, read_checkpoint
from model.data.arrays import DataError, Dataset, Images
from model.evaluation.calibration import calibrate
from model.evaluation.input_encoding import compare_inputs
from model.evaluation.model_card import CARD, PICTURES, write_card
from model.evaluation.ood import measure_elbo_percentiles
from model.evaluation.plots import write_plots
from model.files import WEIGHTS, CheckpointError, is_present, read_json, write_json
from model.formats.native import native_model
from model.records import VERSION, EvaluationRecord
from model.typicality_files import write_typicality
from model.vae import VAE


def write_report(folder: Path, dataset: Dataset) -> None:
    """Write the plots and the model card of a finished training."""
    checkpoint = read_checkpoint(folder)
    epochs = checkpoint.metrics.training.epochs if checkpoint.metrics.training else ()
    write_plots(folder / PICTURES, checkpoint.vae, dataset.held_out, epochs)
    _write_card(folder)


def _write_card(folder: Path) -> None:
    if not write_card(folder):
        notify(f"{folder / CARD} is not a generated model card and is kept")


def require_saveable(model: Path) -> None:
    """Raise `CheckpointError` if figures could not be saved with the model, before they are computed."""
    _history(model)
    if not os.access(model, os.W_OK):
        raise CheckpointError(f"save: {model}: the folder cannot be written")


def save_evaluation(model: Path, images: Images, figures: EvaluationRecord, *, replace: bool = False) -> None:
    """Save the figures in metrics.json, and update percentiles, plots and model card from the evaluated images.

    Figures of other numbers of draws or images are kept beside them. Percentiles, plots and card are not updated if an
    earlier evaluation had more images. With `replace` the earlier evaluations are removed.
    """
    checkpoint = read_checkpoint(model)
    if figures.weights != checkpoint.digest:
        raise CheckpointError(f"{model / WEIGHTS}: changed during the evaluation; the figures are not saved")
    most = 0 if replace else checkpoint.metrics.most_images
    if figures.images < most:
        _keep(model, checkpoint, figures, {})
        kept = f"percentiles, plots and card are those of {most:,} images, more than these {figures.images:,}"
        notify(f"the figures are saved in {model / METRICS}; {kept}; --replace replaces them")
        return
    _keep(model, checkpoint, figures, _measured(checkpoint.vae, images, figures), replace=replace)
    _calibrate(model, checkpoint, images[: figures.images], f"images of the {figures.split}")
    epochs = checkpoint.metrics.training.epochs if checkpoint.metrics.training else ()
    write_plots(model / PICTURES, checkpoint.vae, images, epochs)
    _write_card(model)
    notify(f"figures, percentiles and pictures are saved in {model}")


def _keep(
    model: Path, checkpoint: Checkpoint, figures: EvaluationRecord, measured: dict[str, Any], *, replace: bool = False
) -> None:
    """Add figures, and the measurements that belong to them, to the current metrics.json."""
    kept = _history(model)
    if replace or kept.get("weights", checkpoint.digest) != checkpoint.digest:  # of other weights
        kept = {name: value for name, value in kept.items() if name not in ("evaluations", "reference", "inputs")}
    evaluations = _merged(kept.get("evaluations"), asdict(figures))
    about = {"version": VERSION, "weights": checkpoint.digest, "evaluations": evaluations}
    write_json(model / METRICS, kept | about | measured)


def _calibrate(model: Path, checkpoint: Checkpoint, images: Images, source: str) -> None:
    """Calibrate the typicality by the evaluated images, if they are enough."""
    try:
        write_typicality(model, calibrate(native_model(checkpoint), images, source))
    except DataError as error:
        notify(f"scores have no typicality: {error}")


def _history(model: Path) -> dict[str, Any]:
    """All of metrics.json, with unknown fields, so that they are written back."""
    history = read_json(model / METRICS) if is_present(model / METRICS) else {}
    if not isinstance(history, dict):
        raise CheckpointError(f"{model / METRICS}: expected an object, got {type(history).__name__}")
    return history


def _measured(vae: VAE, images: Images, figures: EvaluationRecord) -> dict[str, Any]:
    """Measure the ELBO percentiles and, for a model of binary pixels, the quality of input encodings."""
    scored = images[: figures.images]
    reference = measure_elbo_percentiles(vae, scored, split=figures.split).as_dict()
    if figures.binarize != "dynamic":
        return {"reference": reference}
    return {"reference": reference, "inputs": asdict(compare_inputs(vae, scored))}


def _merged(evaluations: Any, figures: dict[str, Any]) -> list[Any]:
    """The evaluations with these figures added; they replace figures of the same numbers of draws and images."""
    before = evaluations if isinstance(evaluations, list) else []
    objects = [kept for kept in before if isinstance(kept, dict)]
    others = [kept for kept in objects if any(kept.get(name) != figures[name] for name in ("samples", "images"))]
    return sorted([*others, figures], key=lambda kept: tuple(_number(kept, name) for name in ("samples", "images")))


def _number(kept: dict[str, Any], name: str) -> int:
    return value if isinstance(value := kept.get(name), int) else 0
