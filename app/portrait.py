"""What people see of a model: its pictures and its card. The only module of the service that needs the train extra."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model.arrays import Dataset
from model.card import write_card
from model.checkpoint import METRICS, read_checkpoint, write_json
from model.data import read_dataset
from model.greys import compare_inputs
from model.pictures import write_pictures
from model.strangers import measure_reference
from model.training import EpochRecord, Training


def portray(folder: Path, training: Training, dataset: Dataset) -> None:
    """Draw the pictures of a finished training and write its card."""
    write_pictures(folder / "pictures", training.average, dataset.held_out, training.records)
    write_card(folder)


def save_evaluation(model: Path, data: Path, figures: dict[str, Any]) -> None:
    """Keep the figures in metrics.json, beside those of other numbers of draws, and draw pictures and card anew."""
    checkpoint = read_checkpoint(model)
    records = [EpochRecord(**record) for record in checkpoint.metrics.get("training", {}).get("epochs", [])]
    images = read_dataset(data, checkpoint.vae.config.image_shape).held_out
    others = [kept for kept in checkpoint.metrics.get("evaluations", []) if kept["samples"] != figures["samples"]]
    evaluations = sorted([*others, figures], key=lambda kept: int(kept["samples"]))
    reference = replace(measure_reference(checkpoint.vae, images), split=figures["split"])
    found: dict[str, Any] = {"evaluations": evaluations, "reference": asdict(reference)}
    if figures["binarize"] == "dynamic":
        found["inputs"] = {name: asdict(fidelity) for name, fidelity in compare_inputs(checkpoint.vae, images).items()}
    write_json(model / METRICS, checkpoint.metrics | found)
    write_pictures(model / "pictures", checkpoint.vae, images, records)
    write_card(model)
