"""Seeded test split of a data set without one, by the content of each image.

An image is in the test split if the hash of seed and grey levels is below a share of all hashes. An image has the same
split in any data set that contains it, also if files are added or renamed, and copies of an image are not separated.
"""

from dataclasses import replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from model.data.arrays import Dataset, Images


def split_by_content(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Return the data set with about `share` of its training images as test split; unchanged if it has one."""
    if dataset.test is not None or not share:
        return dataset
    chosen = held_out(dataset.train, share, seed)
    if not chosen.any() or chosen.all():
        return dataset
    labels = tuple(label for label, test in zip(dataset.labels, chosen, strict=False) if not test)
    return replace(dataset, train=dataset.train[~chosen], test=dataset.train[chosen], labels=labels)


def held_out(images: Images, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which of the uint8 images [N, C, H, W] are in the test split, [N]."""
    limit = int(share * 2**64)
    return np.array([_hash(image, seed) < limit for image in images], bool)


def _hash(image: Images, seed: int) -> int:
    content = np.ascontiguousarray(image).tobytes()
    return int.from_bytes(blake2b(content, digest_size=8, key=seed.to_bytes(8, "little")).digest(), "little")
