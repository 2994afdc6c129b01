"""Drives tritonclient.grpc against a port and prints what it saw as JSON."""

import json
import sys
from typing import Any

import grpc
import numpy as np
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

PORT, KEY = sys.argv[1:]
HEADERS = {"authorization": f"Bearer {KEY}"}
NAME = "ticket-triage"
client = triton.InferenceServerClient(f"127.0.0.1:{PORT}")


def texts(items: list[str]) -> Any:
    made = triton.InferInput("text", [len(items)], "BYTES")
    made.set_data_from_numpy(np.array(items, dtype=object))
    return made


two = [texts(["My card has not arrived", "I lost my card"])]
ids = triton.InferInput("input_ids", [1, 4], "INT64")
ids.set_data_from_numpy(np.array([[2, 70, 80, 3]], dtype=np.int64))
result = client.infer(NAME, two, headers=HEADERS, request_id="77", client_timeout=5)
outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
best = client.infer(NAME, two, outputs=outputs, headers=HEADERS).as_numpy("probabilities")
by_ids = client.infer(NAME, [ids], headers=HEADERS, parameters={"top_k": 4}).as_numpy("probabilities")

typed = service_pb2.ModelInferRequest(model_name=NAME)
tensor = typed.inputs.add(name="text", datatype="BYTES", shape=[2])
tensor.contents.bytes_contents.extend([b"My card has not arrived", b"I lost my card"])
with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    answer = stub.ModelInfer(typed, metadata=tuple(HEADERS.items()))
    labels = next(o for o in answer.outputs if o.name == "label").contents.bytes_contents

wrong = triton.InferInput("text", [1], "FP32")
wrong.set_data_from_numpy(np.zeros(1, dtype=np.float32))
faults: dict[str, dict[str, Any]] = {
    "no such model": {"model_name": "nope", "inputs": two, "headers": HEADERS},
    "no key": {"model_name": NAME, "inputs": two},
    "wrong key": {"model_name": NAME, "inputs": two, "headers": {"authorization": "Bearer x"}},
    "wrong datatype": {"model_name": NAME, "inputs": [wrong], "headers": HEADERS},
    "wrong output": {
        "model_name": NAME,
        "inputs": two,
        "headers": HEADERS,
        "outputs": [triton.InferRequestedOutput("mood")],
    },
    "past deadline": {"model_name": NAME, "inputs": two, "headers": {**HEADERS, "x-deadline-ms": "0"}},
    "too many": {"model_name": NAME, "inputs": [texts(["a"] * 1025)], "headers": HEADERS},
}
errors = {}
for name, call in faults.items():
    try:
        client.infer(**call)
    except InferenceServerException as error:
        errors[name] = error.status()

print(
    json.dumps(
        {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(NAME, headers=HEADERS),
            "server": client.get_server_metadata(headers=HEADERS).name,
            "inputs": [i.name for i in client.get_model_metadata(NAME, headers=HEADERS).inputs],
            "labels": [label.decode() for label in result.as_numpy("label")],
            "id": result.get_response().id,
            "embedding": list(result.as_numpy("embedding").shape),
            "best": best[0, 0].decode(),
            "by_ids": list(by_ids.shape),
            "typed": [label.decode() for label in labels],
            "errors": errors,
        }
    )
)
