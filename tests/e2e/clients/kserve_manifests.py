"""Reads the manifests of `deploy/kserve` by the schemas of KServe; run in the environment of its client.

Prints one line of JSON for each: its name, and the fields that KServe and Kubernetes do not know.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserve
import yaml
from kubernetes import client as kubernetes

SCHEMAS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}


def unknown(sent: Any, kind: str, where: str) -> Iterator[str]:
    """The fields that no schema has; names of types are those of the generated models."""
    inner = re.fullmatch(r"(?:list\[|dict\(str, )(.+)[\])]", kind)
    if inner:
        items = sent.items() if isinstance(sent, dict) else enumerate(sent)
        for name, item in items:
            yield from unknown(item, inner[1], f"{where}.{name}")
        return
    schema = getattr(kserve, kind, None) or getattr(kubernetes, kind, None)
    if schema is None or not isinstance(sent, dict):
        return
    names = {name: attribute for attribute, name in schema.attribute_map.items()}
    for name, value in sent.items():
        if name in names:
            yield from unknown(value, schema.openapi_types[names[name]], f"{where}.{name}")
        else:
            yield f"{where}.{name}"


for path in sorted(Path(sys.argv[1]).glob("*.yml")):
    manifest = yaml.safe_load(path.read_text())
    found = [*unknown(manifest, SCHEMAS[manifest["kind"]], manifest["kind"])]
    print(json.dumps([path.name, found]))  # noqa: T201
