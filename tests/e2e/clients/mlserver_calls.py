"""Requests made by the codecs of MLServer, and its command `mlserver infer`; run in an environment of its own.

Prints one line of JSON for each call: its name, and what came back.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataServerResponse

BASE = f"http://{sys.argv[1]}"
PIXELS = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
PNG = bytes.fromhex(sys.argv[2])


def fetch(path: str, body: str | None = None) -> str:
    headers = {"Content-Type": "application/json"}
    request = Request(BASE + path, None if body is None else body.encode(), headers)
    with urlopen(request, timeout=30) as response:
        return response.read().decode()


def show(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)  # noqa: T201


def infer(model: str, *inputs: Any) -> dict[str, Any]:
    body = InferenceRequest(inputs=[*inputs]).model_dump_json()
    response = InferenceResponse.model_validate_json(fetch(f"/v2/models/{model}/infer", body))
    return {output.name: NumpyCodec.decode_output(output).tolist() for output in response.outputs}


show("server metadata", MetadataServerResponse.model_validate_json(fetch("/v2")).name)
metadata = MetadataModelResponse.model_validate_json(fetch("/v2/models/encode"))
show("model metadata", [tensor.name for tensor in metadata.outputs or ()])
show("encode numpy", infer("encode", NumpyCodec.encode_input("images", PIXELS)))
show("encode base64", infer("encode", Base64Codec.encode_input("images", [PNG], use_bytes=False)))
show("decode FP64", infer("decode", NumpyCodec.encode_input("latents", np.array([[0.5, -1, 2, 0.25]]))))

with tempfile.TemporaryDirectory() as folder:
    lines = [InferenceRequest(inputs=[NumpyCodec.encode_input("images", image[None])]) for image in PIXELS]
    source, target = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
    source.write_text("".join(line.model_dump_json() + "\n" for line in lines))
    for batch, binary in (("1", []), ("3", ["--binary-data"])):
        command = [sys.executable, "-c", "from mlserver.cli import main; main()", "infer", "-u", sys.argv[1]]
        options = ["-m", "encode", "-i", str(source), "-o", str(target), "-s", batch, *binary]
        subprocess.run([*command, *options], check=True, capture_output=True)
        found = [json.loads(line) for line in target.read_text().splitlines()]
        found.sort(key=lambda one: one["parameters"]["batch_index"])
        means = [[output["data"] for output in one["outputs"] if output["name"] == "mean"] for one in found]
        show(f"mlserver infer, {batch} at once", means)
