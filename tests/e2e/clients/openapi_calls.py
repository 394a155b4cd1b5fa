"""Calls of the client that openapi-python-client has generated: FOLDER URL PNG, and what came back as JSON lines.

Runs in an environment without this project.
"""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

from vae_api import Client
from vae_api.api.model import decode, encode, interpolate, sample, sample_post, score
from vae_api.models import EncodeFilesBody, Images, Latents, LatentsIn, Problem, SampleQuery, Scores
from vae_api.types import File

client = Client(base_url=sys.argv[2])
png = Path(sys.argv[3]).read_bytes()


def show(name: str, value: Any) -> None:
    sys.stdout.write(json.dumps([name, value]) + "\n")


def picture() -> File:
    return File(io.BytesIO(png), "digit.png", "image/png")


by_file = encode.sync(client=client, body=picture())
by_form = encode.sync(client=client, body=EncodeFilesBody(images=[picture()]))
by_text = encode.sync(client=client, body=Images(images=[base64.b64encode(png).decode()]))
for name, latents in (("encode a file", by_file), ("encode a form", by_form), ("encode base64", by_text)):
    assert isinstance(latents, Latents), latents
    show(name, latents.latents[0].mean)

mean = by_file.latents[0].mean
decoded = decode.sync(client=client, body=LatentsIn(latents=[mean]))
assert isinstance(decoded, File), decoded
show("decode", base64.b64encode(decoded.payload.read()).decode())
drawn = sample.sync(client=client, n=2, seed=7)
assert isinstance(drawn, File), drawn
show("sample", base64.b64encode(drawn.payload.read()).decode())
posted = sample_post.sync(client=client, body=SampleQuery(n=2, seed=7))
assert isinstance(posted, File), posted
show("sample by POST", base64.b64encode(posted.payload.read()).decode())
between = interpolate.sync(client=client, body=LatentsIn(latents=[mean, mean]), steps=3)
assert isinstance(between, File), between
show("interpolate", base64.b64encode(between.payload.read()).decode())
scores = score.sync(client=client, body=picture(), seed=7)
assert isinstance(scores, Scores), scores
show("score", scores.scores[0].elbo)
problem = decode.sync(client=client, body=LatentsIn(latents=[[1.0]]))
assert isinstance(problem, Problem), problem
show("a problem", problem.detail)
