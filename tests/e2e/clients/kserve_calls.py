"""Calls of `kserve.InferenceRESTClient`; run in an environment of its own with the address of a service.

Prints one line of JSON for each call: its name, and what came back.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

BASE = f"http://{sys.argv[1]}"
PIXELS = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
PNG = bytes.fromhex(sys.argv[2])


def request(model: str, name: str, datatype: str, array: np.ndarray, *, binary: bool, **options: Any) -> InferRequest:
    tensor = InferInput(name, [*array.shape], datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, [tensor], **options)


def show(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)  # noqa: T201


def outputs(response: Any) -> dict[str, Any]:
    return {output.name: output.as_numpy().tolist() for output in response.outputs}


async def main() -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    show("live", await client.is_server_live(BASE))
    show("ready", await client.is_server_ready(BASE))
    show("model ready", await client.is_model_ready(BASE, "encode"))
    show("other model ready", await client.is_model_ready(BASE, "else"))
    latents = np.array([[0.5, -1, 2, 0.25]], np.float32)
    binary = {"binary_data_output": True}
    calls = {
        "encode json": request("encode", "images", "UINT8", PIXELS, binary=False),
        "encode binary": request("encode", "images", "UINT8", PIXELS, binary=True, parameters=binary),
        "encode one output": request(
            "encode",
            "images",
            "UINT8",
            PIXELS,
            binary=True,
            request_outputs=[RequestedOutput("mean", {"binary_data": True})],
        ),
        "encode BYTES": request("encode", "images", "BYTES", np.array([PNG], np.object_), binary=True),
        "decode FP16": request("decode", "latents", "FP16", latents.astype(np.float16), binary=True),
    }
    for name, sent in calls.items():
        show(name, outputs(await client.infer(BASE, sent, sent.model_name)))
    try:
        await client.infer(BASE, calls["encode json"], "else")
    except httpx.HTTPStatusError as error:
        show("unknown model", [error.response.status_code, error.response.json()])
    await client.close()


asyncio.run(main())
