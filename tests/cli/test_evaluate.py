"""`trivium eval`, `compare` and `variant`, on a real edge model and a database of their own."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from support.edge import KEY, RunningEdge, running_edge
from trivium.cli.main import app
from trivium.errors import TriviumError
from trivium.features import load_feature
from trivium.llm.settings import BackendSettings
from trivium.promotions import unpromoted
from trivium.settings import DEFAULT_SERVICE_KEY

CASES = 12
VARIANTS = "variants:\n  edge-strict: {pattern: edge, model: ticket-triage/2, min_confidence: 0.99}\n"


@pytest.fixture
def triage(root: Path, tmp_path: Path, edge: RunningEdge, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped feature with fewer cases and one variant more; the folder that it is in."""
    folder = tmp_path / "features/ticket-triage"
    shutil.copytree(root / "features/ticket-triage", folder)
    (folder / "promoted.json").unlink(missing_ok=True)
    manifest = folder / "feature.yaml"
    manifest.write_text(manifest.read_text().replace("variants:\n", VARIANTS, 1))
    golden = folder / "evals/golden.jsonl"
    lines = golden.read_text().splitlines()[:CASES]
    golden.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(tmp_path / "features"))
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TRIVIUM_EDGE_URL", f"http://127.0.0.1:{edge.port}")
    monkeypatch.setenv("TRIVIUM_SERVICE_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    return folder


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_an_evaluation_is_scored_gated_reported_and_stored(triage: Path, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"report.{name}" for name in ("json", "junit", "html")}
    words = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    done = _run("eval", "ticket-triage", *words)
    assert done.exit_code == 0, done.output
    assert f"{CASES} cases" in done.output
    assert "accuracy" in done.output
    assert "macro_f1" in done.output
    report = _read(paths["json"])
    right = report["metrics"]["accuracy"]
    assert right["low"] <= right["value"] <= right["high"]
    assert (right["n"], report["passed"], len(report["runs"])) == (CASES, True, CASES)
    suite = ElementTree.fromstring(paths["junit"].read_text())
    assert suite.get("failures") == "0"
    assert len(suite.findall("testcase")) == CASES + 1
    assert "<script" not in paths["html"].read_text()
    listed = _run("variant", "list", "ticket-triage")
    assert "passed" in listed.output
    assert "never" in listed.output


def test_a_variant_that_abstains_fails_its_gate_and_is_a_regression(triage: Path, tmp_path: Path) -> None:
    assert _run("eval", "ticket-triage").exit_code == 0
    page, suite = tmp_path / "page.html", tmp_path / "suite.xml"
    reports = ("--html", str(page), "--junit", str(suite))
    strict = _run("eval", "ticket-triage", "--variant", "edge-strict", "--against", "edge-v1", *reports)
    assert strict.exit_code == 1
    assert "not passed" in strict.output
    assert "low_confidence" in strict.output
    assert "missed" in strict.output
    assert "regression" in strict.output
    assert "expected {" in strict.output
    assert "was      {" in strict.output
    assert "is       low_confidence" in strict.output
    told = ElementTree.fromstring(suite.read_text())
    assert [one.get("name") for one in told if one.find("failure") is not None] == ["accuracy", "accuracy"]
    assert told.get("errors") == "0"
    assert told.findall("testcase/skipped")
    assert "<del>{" in page.read_text()
    assert "<ins>low_confidence" in page.read_text()


def test_a_page_shows_what_scored_lowest_and_escapes_what_was_said(triage: Path, tmp_path: Path) -> None:
    (triage / "evals/half.py").write_text(
        "from dataclasses import dataclass\n"
        "from trivium.evals.evaluators import Scorer\n"
        "@dataclass(repr=False)\n"
        "class Half(Scorer):\n"
        "    metrics = ('half',)\n"
        "    def evaluate(self, ctx):\n"
        "        return {'half': 0.25 if '<script>' in ctx.expected_output['label'] else 1.0}\n"
    )
    manifest = triage / "feature.yaml"
    manifest.write_text(
        manifest.read_text().replace("[accuracy]", "['evals/half.py:Half']").replace("{accuracy: ", "{half: ")
    )
    golden = triage / "evals/golden.jsonl"
    first = json.loads(golden.read_text().splitlines()[0])
    low = {**first, "id": "low", "expected": {"label": "<script>card"}}
    golden.write_text(golden.read_text() + json.dumps(low) + "\n")
    path = tmp_path / "page.html"
    assert _run("eval", "ticket-triage", "--html", str(path)).exit_code == 0
    page = path.read_text()
    assert "half 0.250" in page
    assert "&lt;script&gt;card" in page
    assert "<script" not in page


def test_repeats_are_run_again_and_a_part_proves_nothing(triage: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = _run("eval", "ticket-triage", "--repeat", "2", "--limit", "3", "--json", str(path))
    assert done.exit_code == 0, done.output
    report = _read(path)
    assert [(run["case_id"], run["repeat"]) for run in report["runs"]] == [
        (f"triage-00{n}", repeat) for n in (1, 2, 3) for repeat in (0, 1)
    ]
    latencies = [run["answered"]["latency_ms"] for run in report["runs"]]
    assert len(set(latencies)) == 6
    assert report["passes_all"]["accuracy"]["n"] == 3
    assert (report["whole"], report["passed"]) == (False, False)
    assert "never" in _run("variant", "list", "ticket-triage").output


def test_a_model_that_cannot_be_reached_is_said_once(triage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_EDGE_URL", "http://127.0.0.1:9")
    done = _run("eval", "ticket-triage")
    assert isinstance(done.exception, TriviumError)
    assert "start the platform with `make run`" in done.exception.detail


def test_the_key_that_the_platform_made_is_known_on_this_machine_and_goes_nowhere_else(
    triage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIVIUM_SERVICE_KEY")
    refused = _run("eval", "ticket-triage")
    assert isinstance(refused.exception, TriviumError)
    assert "refused: edge model answered 401" in refused.exception.detail
    assert "start the platform with `make run`" in refused.exception.detail
    assert "never" in _run("variant", "list", "ticket-triage").output
    (tmp_path / "state").mkdir()
    (tmp_path / "state/service.key").write_text(f"{KEY}\n")
    assert _run("eval", "ticket-triage").exit_code == 0
    monkeypatch.setenv("TRIVIUM_EDGE_URL", "http://edge.example:8080")
    elsewhere = BackendSettings().with_key_of_up()
    assert elsewhere.service_key.get_secret_value() == DEFAULT_SERVICE_KEY


def test_a_model_that_dies_on_the_way_gives_failures_and_no_scores(
    triage: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    with running_edge(root / "models", tmp_path / "log") as own:
        monkeypatch.setenv("TRIVIUM_EDGE_URL", f"http://127.0.0.1:{own.port}")
        (triage / "evals/kill.py").write_text(
            "import os, signal\n"
            "from dataclasses import dataclass\n"
            "from trivium.evals.evaluators import Scorer\n"
            "@dataclass(repr=False)\n"
            "class Kill(Scorer):\n"
            "    metrics = ('alive',)\n"
            "    def evaluate(self, ctx):\n"
            f"        os.kill({own.process.pid if own.process else 0}, signal.SIGKILL)\n"
            "        return {'alive': True}\n"
        )
        manifest = triage / "feature.yaml"
        text = manifest.read_text().replace("[accuracy]", "[accuracy, 'evals/kill.py:Kill']")
        manifest.write_text(text)
        done = _run("eval", "ticket-triage", "--at-once", "1", "--json", str(path))
    assert done.exit_code == 1
    runs = _read(path)["runs"]
    assert [bool(run["scores"]) for run in runs] == [True] + [False] * (CASES - 1)
    assert all("connection" in run["failure"] for run in runs[1:])
    assert all(run["latency_ms"] > 0 for run in runs)
    assert _read(path)["metrics"]["accuracy"]["value"] <= 1 / CASES


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--variant", "nonsense"], "has no variant 'nonsense'; there are edge-strict"),
        (["--against", "nonsense"], "there is no evaluation 'nonsense' to compare with"),
        (["--against", "last"], "there is no evaluation 'last'"),
        (["--html", "/nowhere/report.html"], "there is no folder /nowhere"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_run(
    triage: Path, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_EDGE_URL", "http://127.0.0.1:9")  # nothing is asked for it
    done = _run("eval", "ticket-triage", *words)
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())


def test_the_last_is_what_the_variant_was_or_else_what_is_served(triage: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert _run("eval", "ticket-triage").exit_code == 0
    _run("eval", "ticket-triage", "--variant", "edge-strict", "--against", "last", "--json", str(path))
    baseline = _read(path)["comparison"]["baseline"]
    assert baseline["variant"] == "edge-v1"
    assert _read(path)["comparison"]["unlike"] == []
    _run("eval", "ticket-triage", "--variant", "edge-strict")
    manifest = triage / "feature.yaml"
    manifest.write_text(manifest.read_text().replace("min_confidence: 0.99", "min_confidence: 0.98"))
    golden = triage / "evals/golden.jsonl"
    golden.write_text("\n".join(golden.read_text().splitlines()[1:]) + "\n")
    again = ("--variant", "edge-strict", "--against", "last", "--json", str(path))
    done = _run("eval", "ticket-triage", *again)
    compared = _read(path)["comparison"]
    assert compared["baseline"]["variant"] == "edge-strict"
    assert compared["baseline"]["version"] != _read(path)["version"]
    assert "another version of the dataset" in compared["unlike"][0]
    assert "not quite alike" in done.output


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "triage-001", "input": {"text": "x"}, "expected": {}}', "stands in line 1 already"),
        ('{"id": "x", "input": {"txt": "x"}, "expected": {}}', "input"),
        ('{"id": "x", "input": {"text": "x"}}', "expected: Field required"),
        ('{"id": "x", "input": {"text": "x"}, "expected": {}, "extra": 1}', "extra"),
        ("nonsense", "not JSON"),
    ],
)
def test_a_wrong_case_is_told_with_its_place(triage: Path, line: str, told: str) -> None:
    golden = triage / "evals/golden.jsonl"
    golden.write_text(golden.read_text() + "\n" + line + "\n")
    done = _run("eval", "ticket-triage")
    assert isinstance(done.exception, TriviumError)
    assert told in done.exception.detail
    assert f"golden.jsonl:{CASES + 2}: " in done.exception.detail


def _promote(variant: str) -> Result:
    return _run("variant", "promote", "ticket-triage", variant, "--by", "tests")


def test_what_is_promoted_has_passed_in_this_very_version(triage: Path) -> None:
    refused = _promote("edge-v1")
    assert refused.exit_code == 1
    assert "has not been evaluated: run `trivium eval ticket-triage --variant edge-v1`" in refused.output
    assert _run("eval", "ticket-triage").exit_code == 0
    done = _promote("edge-v1")
    assert done.exit_code == 0, done.output
    feature = load_feature(triage / "feature.yaml")
    assert unpromoted(feature) is None
    record = _read(triage / "promoted.json")["edge-v1"]
    assert record["version"] == feature.variants["edge-v1"].version
    assert record["evaluation"]["cases"] == CASES

    manifest = triage / "feature.yaml"
    before = manifest.read_text()
    manifest.write_text(before.replace("min_confidence: 0.30", "min_confidence: 0.31"))
    told = unpromoted(load_feature(manifest))
    assert told
    assert f"{record['version']} was promoted" in told
    assert _promote("edge-v1").exit_code == 1
    manifest.write_text(before)
    golden = triage / "evals/golden.jsonl"
    whole = golden.read_text()
    golden.write_text(whole + '{"id": "new", "input": {"text": "x"}, "expected": {"label": "y"}}\n')
    assert "the dataset has changed" in _promote("edge-v1").output
    golden.write_text(whole)
    manifest.write_text(before.replace("{accuracy: {min: 0.80}}", "{accuracy: {min: 0.10}}"))
    assert "the evaluators or gates have changed" in _promote("edge-v1").output


@pytest.mark.parametrize("broken", ["{broken", '{"edge-v1": {"version": "x"}}'])
def test_what_cannot_be_recorded_is_not_served(triage: Path, broken: str) -> None:
    manifest = triage / "feature.yaml"
    manifest.write_text(manifest.read_text().replace("min_confidence: 0.99", "min_confidence: 0.01"))
    before = manifest.read_text()
    assert _run("eval", "ticket-triage", "--variant", "edge-strict").exit_code == 0
    (triage / "promoted.json").write_text(broken)
    assert isinstance(_promote("edge-strict").exception, TriviumError)
    assert manifest.read_text() == before
    assert (triage / "promoted.json").read_text() == broken
    assert {one.name for one in triage.iterdir() if one.is_file()} == {"feature.yaml", "promoted.json"}


def test_a_check_of_the_features_warns_of_what_was_not_promoted(triage: Path) -> None:
    told = _run("features", "check")
    assert told.exit_code == 0
    assert "warning: ticket-triage serves edge-v1" in told.output
    assert _run("eval", "ticket-triage").exit_code == 0
    assert _promote("edge-v1").exit_code == 0
    assert "warning" not in _run("features", "check").output


def test_what_missed_its_gate_is_refused_with_the_figure(triage: Path) -> None:
    assert _run("eval", "ticket-triage", "--variant", "edge-strict").exit_code == 1
    refused = _promote("edge-strict")
    assert refused.exit_code == 1
    assert "the gate is min 0.8" in refused.output
    assert not (triage / "promoted.json").exists()


def test_another_variant_is_served_by_its_promotion_and_the_file_keeps_its_words(triage: Path) -> None:
    manifest = triage / "feature.yaml"
    text = manifest.read_text().replace("min_confidence: 0.99", "min_confidence: 0.01")
    manifest.write_text(text)
    assert _run("eval", "ticket-triage", "--variant", "edge-strict").exit_code == 0
    done = _promote("edge-strict")
    assert done.exit_code == 0, done.output
    assert "is served instead of edge-v1" in done.output
    feature = load_feature(manifest)
    assert feature.manifest.chain == ["edge-strict", "edge-v1", "llm-v1"]
    after = manifest.read_text()
    changed = set(after.splitlines()) ^ set(text.splitlines())
    assert all(line.startswith(("serve:", "fallback:")) for line in changed)
    assert "# The bare model has 0.88" in after


def test_two_variants_are_compared_side_by_side(triage: Path) -> None:
    done = _run("compare", "ticket-triage", "edge-v1", "edge-strict")
    assert done.exit_code == 1, done.output  # it is significantly worse
    assert "on the dataset" in done.output
    assert "regression" in done.output
    found = json.loads(_run("compare", "ticket-triage", "edge-v1", "edge-v1", "--json").output)
    assert found["flips"] == []
    assert [one["variant"] for one in found["variants"]] == ["edge-v1", "edge-v1"]
