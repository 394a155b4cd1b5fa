"""`vae encode --ray` on a local cluster of two machines, one of which is lost: the same files. `make cluster`."""

import os
import threading
import time
from pathlib import Path

import pytest

from app.datasets.encode import encode_dataset
from app.datasets.options import EncodeOptions, Hardware
from tests.support.image_folders import write_images
from tests.support.models import COLOUR, write

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray has its own

CPU = Hardware("cpu", threads=1)
OPTIONS = EncodeOptions(shard_size=10)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 200, broken=50)
    write(tmp_path / "model", COLOUR)
    encode_dataset(tmp_path / "images", tmp_path / "model", tmp_path / "expected", OPTIONS, CPU)
    return tmp_path


def test_two_machines_write_the_same_files_although_one_is_lost(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    from ray.cluster_utils import Cluster  # noqa: PLC0415  # the extra `ray`

    from app.datasets.ray_data import encode_on_ray  # noqa: PLC0415

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    lost = cluster.add_node(num_cpus=2)
    out = data / "out"

    def lose_one() -> None:
        while len(list(out.glob("index-*.parquet"))) < 3:
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)

    try:
        thread = threading.Thread(target=lose_one)
        thread.start()
        summary = encode_on_ray(data / "images", data / "model", out, OPTIONS, CPU, address=cluster.address)
        thread.join()
    finally:
        cluster.shutdown()
    assert (summary.encoded, summary.unreadable, summary.contents.shards) == (196, 4, 20)
    assert files(out) == files(data / "expected")
