"""The Open Inference Protocol, over the service of the running platform."""

from typing import Any

import pytest

from support.platform import Answer, RunningPlatform

pytestmark = pytest.mark.platform
PATH = "/v2/models/ticket-triage/infer"


def _ask(platform: RunningPlatform, path: str = PATH, **body: Any) -> Answer:
    return platform.call(path, body, service="edge")


def _text(*texts: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}


def test_text_in_label_and_confidence_out(platform: RunningPlatform) -> None:
    answer = _ask(platform, id="7", inputs=[_text("How do I change my PIN?", "I lost my card")])
    assert answer.status == 200
    assert (answer.body["id"], answer.body["model_version"]) == ("7", "1")
    label, confidence = answer.body["outputs"]
    assert label["data"] == ["change_pin", "lost_or_stolen_card"]
    assert confidence["shape"] == [2]


def test_outputs_are_chosen_by_name(platform: RunningPlatform) -> None:
    asked = [{"name": "embedding"}, {"name": "probabilities"}]
    answer = _ask(platform, inputs=[_text("hello")], outputs=asked)
    shapes = {o["name"]: (o["shape"], len(o["data"])) for o in answer.body["outputs"]}
    assert shapes == {"embedding": ([1, 384], 384), "probabilities": ([1, 77], 77)}


def test_nested_data_and_a_version_in_the_path(platform: RunningPlatform) -> None:
    body = [_text(["hello"], ["bye"], shape=[2, 1])]
    answer = _ask(platform, "/v2/models/ticket-triage/versions/1/infer", inputs=body)
    assert answer.body["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [_text("a", name="words")]}, "'text'"),
        ({"inputs": [_text("a", datatype="FP32")]}, "BYTES"),
        ({"inputs": [_text("a", shape=[2])]}, "shape"),
        ({"inputs": [_text(7)]}, "string"),
        ({"inputs": [_text(*["a"] * 1025)]}, "at most 1024"),
        ({"inputs": [_text("a")], "outputs": [{"name": "mood"}]}, "embedding"),
    ],
)
def test_a_malformed_request_is_400_and_says_why(
    platform: RunningPlatform, body: dict[str, Any], said: str
) -> None:
    answer = _ask(platform, **body)
    assert answer.status == 400
    assert said in answer.body["error"]


def test_what_is_not_there_is_404_in_the_protocols_shape(platform: RunningPlatform) -> None:
    for path in ("/v2/models/x/infer", "/v2/models/ticket-triage/versions/9/infer", "/v2/nothing"):
        answer = platform.call(path, {"inputs": [_text("a")]}, service="edge")
        assert (answer.status, list(answer.body)) == (404, ["error"])


def test_a_deadline_that_has_passed_is_504(platform: RunningPlatform) -> None:
    headers = {"X-Deadline-Ms": "0"}
    answer = platform.call(PATH, {"inputs": [_text("a")]}, service="edge", headers=headers)
    assert (answer.status, list(answer.body)) == (504, ["error"])


def test_metadata_names_inputs_outputs_and_versions(platform: RunningPlatform) -> None:
    found = platform.call("/v2/models/ticket-triage", service="edge").body
    assert found["versions"] == ["1"]
    assert [i["name"] for i in found["inputs"]] == ["text"]
    assert [o["name"] for o in found["outputs"]] == ["label", "confidence", "probabilities", "embedding"]
    assert platform.call("/v2/health/ready", service="edge", key=None).status == 200
    assert platform.call("/v2/models/ticket-triage/ready", service="edge").body["ready"] is True
