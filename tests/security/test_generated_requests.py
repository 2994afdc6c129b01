"""Every operation of every service's OpenAPI, by requests that its schema allows and by others.

No 5xx, no status and no media type that is not documented, every answer as its schema says, no right request
refused, no wrong one taken, none without a key. `make fuzz` asks far more.
"""

import logging
import time
from pathlib import Path
from typing import Any

from batch_worker.app import create_app as worker_app
from edge_model.app import create_app as edge_app
from gateway.app import create_app as gateway_app
from support.attacked import Running, running_gateway
from support.edge import KEY, RunningEdge, running_edge
from support.generated import EXAMPLES, Report, attack, lenient, narrowed
from support.postgres import Postgres
from support.vendor import Vendor

told_of = logging.getLogger("generated")
ROWS = '{"id": "M-1", "text": "card lost"}\n{"id": "M-2", "text": "top up"}\n{"id": "M-3"}\n'
# What a provider or the line of the edge model makes of a request is no defect of the gateway's.
OF_TARGETS = ("502", "503", "504")
GATEWAY = [
    lenient("^/v1/chat", "not_a_server_error", *OF_TARGETS),
    # Rules that no schema says: null characters, the feature's own schema, the future, URLs, n with stream.
    lenient(
        "^/v1/(chat|features/.feature./(infer|results|precompute)|feedback)",
        *("positive_data_acceptance", "400", "422"),
    ),
]
EDGE = [
    lenient("/infer$", "not_a_server_error", "503", "504"),
    lenient("/infer$", "positive_data_acceptance", "400", "413"),
]


def _checked(report: Report, log: Path, answered: int) -> None:
    told_of.warning("%s requests to %s operations", report.cases, len({label for label, _ in report.answers}))
    assert not report.failures, str(report)
    assert report.cases >= answered
    told = log.read_text()
    for trouble in ("unexpected_error", "request_failed", "Traceback"):
        assert trouble not in told, told[told.index(trouble) - 500 :][:3000]


def _known(gateway: Running) -> dict[str, list[Any]]:
    """Names and ids that are there, so that not every path leads nowhere."""
    status, run = gateway.call(
        "/v1/features/stored/precompute", raw=ROWS.encode(), Content_Type="application/x-ndjson"
    )
    assert status == 202, run
    until = time.monotonic() + 30
    while (now := gateway.call(f"/v1/precompute/{run['run_id']}")[1])["finished_at"] is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert now["state"] == "done_with_errors", now
    asked = {"input": {"text": "hello"}, "subject": {"id": "u-1"}}
    answers = [
        gateway.call(f"/v1/features/{name}/infer", {**asked, "entity_key": "M-1"})
        for name in ("open", "stored", "echo")
    ]
    assert [status for status, _ in answers] == [200] * 3, answers
    return {
        "feature": ["open", "stored", "echo"],
        "route": ["chat"],
        "model": ["route/chat", "feature/open", "feature/echo"],
        "entity_key": ["M-1", "M-2"],
        "run_id": [run["run_id"]],
        "inference_id": [body["inference_id"] for _, body in answers],
    }


def _attack_gateway(gateway: Running, examples: int) -> Report:
    document = narrowed(gateway_app().openapi(), _known(gateway))
    lines = document["paths"]["/v1/features/{feature}/precompute"]["post"]["requestBody"]["content"]
    lines["application/x-ndjson"]["schema"] = {"anyOf": [{"enum": [ROWS, "nope\n"]}, {"type": "string"}]}
    return attack(document, gateway.url, gateway.key, operations=GATEWAY, examples=examples)


def test_the_gateway_answers_as_its_document_says(gateway: Running) -> None:
    report = _attack_gateway(gateway, EXAMPLES)
    _checked(report, gateway.log, 20 * EXAMPLES)
    seen = {status for _, status in report.answers}
    assert {200, 201, 202, 400, 401, 404, 405, 409, 415, 422} <= seen
    for operation in {label for label, _ in report.answers}:
        assert report.statuses(operation) & {200, 201, 202}, f"{operation} never succeeded"
        assert 401 in report.statuses(operation), f"{operation} was not asked without a key"


def test_it_does_so_on_postgresql(
    postgres: Postgres, edge: RunningEdge, vendor: Vendor, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, postgres.new_database(), edge, vendor) as gateway:
        _checked(_attack_gateway(gateway, EXAMPLES // 2), gateway.log, 10 * EXAMPLES)


def test_the_edge_model_answers_as_its_document_says(root: Path, tmp_path: Path) -> None:
    with running_edge(root / "models", tmp_path / "log") as edge:
        known: dict[str, list[Any]] = {
            "model": ["ticket-triage"],
            "version": ["2"],
            "datatype": ["BYTES", "INT64"],
            "shape": [[1], [1, 2]],
        }
        document = narrowed(edge_app().openapi(), known)
        report = attack(document, f"http://127.0.0.1:{edge.port}", KEY, operations=EDGE)
        _checked(report, tmp_path / "log", 4 * EXAMPLES)
    assert {200, 400, 401, 404, 405} <= {status for _, status in report.answers}


def test_the_worker_answers_as_its_document_says(gateway: Running) -> None:
    report = attack(worker_app().openapi(), gateway.worker_url, KEY)
    _checked(report, gateway.folder / "worker.log", 20)
    assert {200, 405} == {status for _, status in report.answers}
