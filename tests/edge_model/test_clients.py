"""The ecosystem's own clients, unchanged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from support.edge import KEY, RunningEdge

TEXTS = np.array(["My card has not arrived", "I lost my card"], dtype=object)
LABELS = ["card_arrival", "lost_or_stolen_card"]
NAME = "ticket-triage"


def _headers() -> dict[str, str]:
    """New each time: the client adds to what it is given."""
    return {"Authorization": f"Bearer {KEY}"}


def _texts(binary: bool = True) -> "tritonclient.http.InferInput":
    made = tritonclient.http.InferInput("text", [len(TEXTS)], "BYTES")
    made.set_data_from_numpy(TEXTS, binary_data=binary)
    return made


def test_tritons_http_client_finds_its_way(edge: RunningEdge) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{edge.port}") as client:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready(NAME, headers=_headers())
        assert not client.is_model_ready("nope", headers=_headers())
        assert client.get_server_metadata(headers=_headers())["name"] == "trivium-edge-model"
        metadata = client.get_model_metadata(NAME, headers=_headers())
        assert metadata["inputs"][0]["datatype"] == "BYTES"
        assert client.get_model_repository_index(headers=_headers())[0]["state"] == "READY"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_http_client_infers(edge: RunningEdge, binary: bool, compression: str | None) -> None:
    asked = [
        tritonclient.http.InferRequestedOutput("label", binary_data=binary),
        tritonclient.http.InferRequestedOutput("probabilities", class_count=2),
        tritonclient.http.InferRequestedOutput("embedding", binary_data=not binary),
    ]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{edge.port}") as client:
        result = client.infer(
            NAME,
            [_texts(binary)],
            outputs=asked,
            headers=_headers(),
            request_id="77",
            timeout=2_000_000,
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        assert result.get_response()["id"] == "77"
        labels = [x.decode() if isinstance(x, bytes) else x for x in result.as_numpy("label")]
        assert labels == LABELS
        assert result.as_numpy("probabilities")[0, 0].decode().endswith(":card_arrival")
        assert result.as_numpy("embedding").shape == (2, 384)
        everything = client.infer(NAME, [_texts(binary)], headers=_headers())
        assert everything.as_numpy("in_scope").dtype == np.float32
        assert everything.as_numpy("truncated").dtype == np.bool_


def test_tritons_http_client_sends_token_ids(edge: RunningEdge) -> None:
    ids = tritonclient.http.InferInput("input_ids", [2, 4], "INT64")
    ids.set_data_from_numpy(np.array([[2, 70, 80, 3], [2, 90, 100, 3]], dtype=np.int64))
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{edge.port}") as client:
        result = client.infer(NAME, [ids], headers=_headers(), parameters={"top_k": 4})
        assert result.as_numpy("probabilities").shape == (2, 4)


def test_tritons_http_client_is_told_what_is_wrong(edge: RunningEdge) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{edge.port}") as client:
        with pytest.raises(InferenceServerException, match="There is no model 'nope'"):
            client.infer("nope", [_texts()], headers=_headers())
        with pytest.raises(InferenceServerException, match="Authorization"):
            client.infer(NAME, [_texts()])


async def test_tritons_asyncio_client_infers(edge: RunningEdge) -> None:
    async with tritonclient.http.aio.InferenceServerClient(f"127.0.0.1:{edge.port}") as client:
        assert await client.is_server_ready()
        result = await client.infer(NAME, [_texts()], headers=_headers())
        assert [label.decode() for label in result.as_numpy("label")] == LABELS


def test_tritons_grpc_client(edge: RunningEdge) -> None:
    # In a process of its own: it registers the protocol's messages under the names that the server uses.
    told = _script("triton_grpc_client.py", sys.executable, edge.grpc_port)
    assert told["live"] and told["ready"] and told["model_ready"]
    assert told["server"] == "trivium-edge-model"
    assert told["inputs"] == ["text", "input_ids", "attention_mask"]
    assert (told["labels"], told["id"]) == (LABELS, "77")
    assert told["embedding"] == [2, 384]
    assert str(told["best"]).endswith(":card_arrival")
    assert told["by_ids"] == [1, 4]
    assert told["typed"] == LABELS
    assert told["errors"] == {
        "no such model": "StatusCode.NOT_FOUND",
        "no key": "StatusCode.UNAUTHENTICATED",
        "wrong key": "StatusCode.UNAUTHENTICATED",
        "wrong datatype": "StatusCode.INVALID_ARGUMENT",
        "wrong output": "StatusCode.INVALID_ARGUMENT",
        "past deadline": "StatusCode.DEADLINE_EXCEEDED",
        "too many": "StatusCode.INVALID_ARGUMENT",
    }


def test_kserves_client(edge: RunningEdge, tmp_path: Path) -> None:
    # In an environment of its own: it pins an older uvicorn than ours.
    uv = str(Path(sys.executable).with_name("uv"))
    venv = tmp_path / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True, timeout=60)
    python = venv / "bin" / "python"
    command = [uv, "pip", "install", "--quiet", "--python", str(python), "kserve>=0.15,<1"]
    subprocess.run(command, check=True, timeout=300)
    told = _script("kserve_client.py", str(python), edge.port)
    assert told == {"live": True, "ready": True, "model": True, "labels": LABELS, "binary": [1, 77]}


def _script(name: str, python: str, port: int) -> dict[str, object]:
    script = Path(__file__).with_name(name)
    done = subprocess.run(
        [python, str(script), str(port), KEY], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found
