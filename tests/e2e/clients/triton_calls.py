"""Calls of `tritonclient.http`, sync and asyncio; run in an environment of its own with the address of a service.

Prints one line of JSON for each call: its name, and what came back. Pixels are [N, H, W, 1] from zeros to ones.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as sync
from ml_dtypes import bfloat16
from tritonclient.http import aio

ADDRESS = sys.argv[1]
PIXELS = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
PNG = bytes.fromhex(sys.argv[2])


def tensor(module: Any, name: str, datatype: str, array: np.ndarray, binary: bool = True) -> Any:
    sent = module.InferInput(name, [*array.shape], datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


def outputs(module: Any, binary: bool, *names: str) -> Any:
    return [module.InferRequestedOutput(name, binary_data=binary) for name in names]


def calls(module: Any) -> dict[str, dict[str, Any]]:
    """The arguments of each call of `infer`."""
    files = np.array([PNG, PNG], np.object_)
    unit = PIXELS / 255
    latents = np.array([[0.5, -1, 2, 0.25]], np.float32)
    images = tensor(module, "images", "UINT8", PIXELS)
    return {
        "encode binary": {"model_name": "encode", "inputs": [images]},
        "encode json": {
            "model_name": "encode",
            "inputs": [tensor(module, "images", "UINT8", PIXELS, binary=False)],
            "outputs": outputs(module, False, "mean", "logvar"),
        },
        "encode one output": {"model_name": "encode", "inputs": [images], "outputs": outputs(module, True, "logvar")},
        "encode FP32": {"model_name": "encode", "inputs": [tensor(module, "images", "FP32", unit.astype(np.float32))]},
        "encode FP16": {"model_name": "encode", "inputs": [tensor(module, "images", "FP16", unit.astype(np.float16))]},
        "encode BF16": {"model_name": "encode", "inputs": [tensor(module, "images", "BF16", unit.astype(bfloat16))]},
        "encode BYTES": {"model_name": "encode", "inputs": [tensor(module, "images", "BYTES", files)]},
        "encode draws": {"model_name": "encode", "inputs": [images], "parameters": {"samples": 2, "seed": 7}},
        "encode gzip": {
            "model_name": "encode",
            "inputs": [images],
            "request_compression_algorithm": "gzip",
            "response_compression_algorithm": "gzip",
        },
        "encode deflate": {
            "model_name": "encode",
            "inputs": [tensor(module, "images", "UINT8", PIXELS, binary=False)],
            "outputs": outputs(module, False, "mean"),
            "request_compression_algorithm": "deflate",
            "response_compression_algorithm": "deflate",
        },
        "decode binary": {"model_name": "decode", "inputs": [tensor(module, "latents", "FP32", latents)]},
        "decode json": {
            "model_name": "decode",
            "inputs": [tensor(module, "latents", "FP32", latents, binary=False)],
            "outputs": outputs(module, False, "images"),
        },
        "decode BF16": {
            "model_name": "decode",
            "inputs": [tensor(module, "latents", "BF16", latents.astype(bfloat16))],
        },
        "reconstruct": {"model_name": "reconstruct", "inputs": [images], "request_id": "seven"},
        "reconstruct PNG": {"model_name": "reconstruct", "inputs": [images], "parameters": {"format": "png"}},
        "sample": {
            "model_name": "sample",
            "inputs": [tensor(module, "n", "INT64", np.array([2]))],
            "parameters": {"seed": 5, "temperature": 0.5},
            "timeout": 10_000_000,
            "priority": 1,
        },
        "sample without inputs": {"model_name": "sample", "inputs": [], "parameters": {"n": 2, "seed": 5}},
        "score": {"model_name": "score", "inputs": [images], "parameters": {"seed": 1}},
    }


def result(found: Any) -> dict[str, Any]:
    """The response, and its outputs as lists, or as the sizes of byte strings."""
    response = found.get_response()
    arrays = {output["name"]: found.as_numpy(output["name"]) for output in response["outputs"]}
    values = {
        name: [bytes(item)[:4].hex() for item in array] if array.dtype == np.object_ else array.tolist()
        for name, array in arrays.items()
    }
    about = {key: value for key, value in response.items() if key != "outputs"}
    return {"about": about, "outputs": values}


def show(name: str, value: Any) -> None:
    print(json.dumps([name, value]), flush=True)  # noqa: T201


QUERIES = {
    "live": ("is_server_live", ()),
    "ready": ("is_server_ready", ()),
    "model ready": ("is_model_ready", ("encode",)),
    "other model ready": ("is_model_ready", ("else",)),
    "server metadata": ("get_server_metadata", ()),
    "model metadata": ("get_model_metadata", ("encode",)),
    "model config": ("get_model_config", ("encode",)),
    "index": ("get_model_repository_index", ()),
    "statistics": ("get_inference_statistics", ("encode",)),
    "all statistics": ("get_inference_statistics", ()),
}

BROKEN = {
    "unknown model": {"model_name": "else"},
    "unknown version": {"model_name": "encode", "model_version": "7"},
    "unknown parameter": {"model_name": "encode", "parameters": {"scale": 1}},
}


def call_sync() -> None:
    with sync.InferenceServerClient(ADDRESS) as client:
        for name, (method, arguments) in QUERIES.items():
            show(f"sync {name}", getattr(client, method)(*arguments))
        for name, arguments in calls(sync).items():
            show(f"sync {name}", result(client.infer(**arguments)))
        handles = [client.async_infer(**calls(sync)["encode binary"]) for _ in range(4)]
        show("sync async_infer", [result(handle.get_result()) for handle in handles][-1])
        for name, arguments in BROKEN.items():
            try:
                client.infer(inputs=calls(sync)["encode binary"]["inputs"], **arguments)
            except sync.InferenceServerException as error:
                show(f"sync {name}", [error.status(), error.message()])


async def call_aio() -> None:
    async with aio.InferenceServerClient(ADDRESS) as client:
        for name, (method, arguments) in QUERIES.items():
            show(f"aio {name}", await getattr(client, method)(*arguments))
        for name, arguments in calls(aio).items():
            show(f"aio {name}", result(await client.infer(**arguments)))
        for name, arguments in BROKEN.items():
            try:
                await client.infer(inputs=calls(aio)["encode binary"]["inputs"], **arguments)
            except sync.InferenceServerException as error:
                show(f"aio {name}", [error.status(), error.message()])


call_sync()
asyncio.run(call_aio())
