"""Drives KServe's REST client against a port and prints what it saw as JSON."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

PORT, KEY = sys.argv[1:]
BASE, NAME = f"http://127.0.0.1:{PORT}", "ticket-triage"
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def main() -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    texts = InferInput("text", [2], "BYTES", data=["My card has not arrived", "I lost my card"])
    ids = InferInput("input_ids", [1, 4], "INT64")
    ids.set_data_from_numpy(np.array([[2, 70, 80, 3]]), binary_data=True)

    async def infer(tensor: InferInput) -> dict[str, np.ndarray]:
        asked = InferRequest(NAME, [tensor])
        result = await client.infer(BASE, asked, model_name=NAME, headers=HEADERS)
        return {output.name: output.as_numpy() for output in result.outputs}

    by_text, by_ids = await infer(texts), await infer(ids)
    told = {
        "live": await client.is_server_live(BASE),
        "ready": await client.is_server_ready(BASE),
        "model": await client.is_model_ready(BASE, NAME, headers=HEADERS),
        "labels": list(by_text["label"]),
        "binary": list(by_ids["probabilities"].shape),
    }
    await client.close()
    print(json.dumps(told))


asyncio.run(main())
