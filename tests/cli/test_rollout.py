"""`trivium rollout` and `trivium status`, on a database and a flags file of their own."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from support.databases import make_sqlite
from trivium.cli.main import app
from trivium.domain.feedback import Feedback, Kind
from trivium.domain.inference import Arm, Inference, Question, ServedBy, StepAnswer
from trivium.errors import TriviumError
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.telemetry import new_id

MANIFEST = """
feature: {name}
owner: support
assessment: {{problem: p, data: d, acceptable_error_rate: 0.1, when_wrong: w}}
success_metric: {{name: m, direction: down}}
input: {{type: object, properties: {{text: {{type: string}}}}}}
output: {{type: object, required: [label], properties: {{label: {{type: string}}}}}}
deadline_ms: 5000
variants: {{edge-v1: {{pattern: edge, model: triage/1}}}}
serve: edge-v1
fallback: [{{static: {{label: nothing}}}}]
rollout: {{flag: {name}, min_subjects: 20}}
evaluation: {{dataset: golden.jsonl}}
budget: {{monthly_usd: 1}}
example: {{input: {{text: hello}}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("reply", "sort"):
        feature = tmp_path / "features" / name
        feature.mkdir(parents=True)
        (feature / "feature.yaml").write_text(MANIFEST.format(name=name))
        (feature / "golden.jsonl").write_text("{}\n")
    (tmp_path / "flags.json").write_text('{"version": 1, "features": []}')
    monkeypatch.setenv("TRIVIUM_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'trivium.db'}")
    monkeypatch.setenv("TRIVIUM_FEATURES_DIR", str(tmp_path / "features"))
    monkeypatch.setenv("TRIVIUM_FLAGS_FILE", str(tmp_path / "flags.json"))
    return tmp_path


def _promote(folder: Path, name: str = "reply") -> None:
    from trivium.features import load_feature

    feature = load_feature(folder / "features" / name / "feature.yaml")
    promoted = {"version": feature.variants["edge-v1"].version, "evaluation": {"id": "e-1"}}
    record = {**promoted, "promoted_at": "2026-01-01T00:00:00Z", "by": "tests", "reason": "passed"}
    (feature.folder / "promoted.json").write_text(json.dumps({"edge-v1": record}))


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _percent(folder: Path, flag: str = "reply") -> str:
    flags = json.loads((folder / "flags.json").read_text())["features"]
    (found,) = [one for one in flags if one["name"] == flag]
    if not found["enabled"]:
        return "off"
    return str(found["strategies"][0]["parameters"]["rollout"])


def _fill(folder: Path, subjects: int, *, degraded: float = 0.0, overridden: float = 0.2) -> None:
    """Subjects of both arms with one inference each, all with feedback."""

    async def fill() -> None:
        database = Database(await make_sqlite(folder / "trivium.db"))
        by = ServedBy("edge-v1", "edge", "edge-v1", "v1", "m")
        rows, events = [], []
        for n in range(2 * subjects):
            arm = Arm.TREATMENT if n % 2 else Arm.CONTROL
            wrong = n // 2 < degraded * subjects and arm is Arm.TREATMENT
            made = Inference(
                *(new_id(), "reply", arm, f"u-{n}", "k", Question({}), StepAnswer({}), by, wrong, None, []),
                *(1000, 5.0 + n, time.time()),
            )
            rows.append(rows_of(made)[0])
            kind = Kind.DISMISSED if n // 2 < overridden * subjects else Kind.ACCEPTED
            events.append(Feedback(new_id(), made.id, "k", new_id(), kind, None, time.time(), time.time()))
        await InferenceRepository(database).add(rows, [])
        for event in events:
            await FeedbackRepository(database).add(event)
        await database.close()

    asyncio.run(fill())


def test_from_staging_it_goes_on_once_the_version_is_promoted(folder: Path) -> None:
    refused = _run("rollout", "reply", "--advance")
    assert refused.exit_code == 1
    assert "has not been promoted" in refused.output
    assert "trivium eval reply --variant edge-v1" in refused.output
    _promote(folder)
    forced = _run("rollout", "reply", "--advance", "--override", "--reason", "x")
    assert forced.exit_code == 0, "what is promoted may be forced"
    (folder / "features" / "reply" / "promoted.json").unlink()
    barred = _run("rollout", "reply", "--advance", "--override", "--reason", "the board wants it")
    assert barred.exit_code == 1
    assert "cannot be overridden" in barred.output
    assert _percent(folder) == "10"
    _promote(folder)
    assert _run("rollout", "reply", "--roll-back", "--reason", "x").exit_code == 0
    done = _run("rollout", "reply", "--advance", "--by", "me")
    assert done.exit_code == 0, done.output
    assert "from staging to limited" in done.output
    assert _percent(folder) == "10"


def test_an_advance_that_the_gates_do_not_support_is_refused_unless_overridden(folder: Path) -> None:
    _promote(folder)
    assert _run("rollout", "reply", "--advance").exit_code == 0
    refused = _run("rollout", "reply", "--advance")
    assert refused.exit_code == 1
    assert "not enough data" in refused.output
    assert _percent(folder) == "10"
    _fill(folder, 100)
    done = _run("rollout", "reply", "--advance")
    assert done.exit_code == 0, done.output
    assert _percent(folder) == "25"
    forced = _run("rollout", "reply", "--advance", "--override", "--reason", "the board wants it")
    assert forced.exit_code == 0, forced.output
    assert _percent(folder) == "50"
    shown = json.loads(_run("rollout", "reply", "--json").output)
    assert (shown["stage"], shown["reason"]) == ("expand-50", "the board wants it")


def test_bad_figures_support_a_way_back_and_say_why(folder: Path) -> None:
    _promote(folder)
    assert _run("rollout", "reply", "--advance").exit_code == 0
    _fill(folder, 100, degraded=0.3, overridden=0.6)
    shown = _run("rollout", "reply")
    assert shown.exit_code == 0
    for told in ("supports: roll back", "not ready", "not good enough", "treatment", "control", "n 100"):
        assert told in shown.output, told
    back = _run("rollout", "reply", "--roll-back", "--reason", "errors")
    assert back.exit_code == 0
    assert _percent(folder) == "off"
    assert json.loads(_run("rollout", "reply", "--json").output)["stage"] == "staging"


def test_the_kill_switch_works_from_a_flag_that_no_decision_made(folder: Path) -> None:
    on = {"name": "reply", "enabled": True, "strategies": [{"name": "default"}]}
    (folder / "flags.json").write_text(json.dumps({"version": 1, "features": [on]}))
    assert json.loads(_run("rollout", "reply", "--json").output)["stage"] == "ga"
    assert _run("rollout", "reply", "--roll-back", "--to", "limited", "--reason", "x").exit_code == 0
    assert _percent(folder) == "10"
    assert _run("rollout", "reply", "--roll-back", "--reason", "x").exit_code == 0
    assert _percent(folder) == "off"


def test_a_roll_back_is_recorded_with_its_figures(folder: Path) -> None:
    _promote(folder)
    assert _run("rollout", "reply", "--advance").exit_code == 0
    _fill(folder, 30)
    done = _run("rollout", "reply", "--roll-back", "--reason", "x", "--by", "me", "--json")
    made = json.loads(done.stdout)
    assert (made["action"], made["from_stage"], made["to_stage"]) == ("roll_back", "limited", "staging")
    assert (made["decided_by"], made["figures"]["percent"]) == ("me", 10)
    assert made["figures"]["arms"]["treatment"]["subjects"] == 30
    assert {verdict["metric"] for verdict in made["figures"]["verdicts"]} >= {"adoption", "p99_ms"}


# The database's thread may end after the event loop, as it may when the process ends.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_kill_switch_works_without_a_database_and_is_recorded_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _promote(folder)
    assert _run("rollout", "reply", "--advance").exit_code == 0
    away = folder / "away.db"
    away.mkdir()  # SQLite cannot open a folder
    with monkeypatch.context() as without:
        without.setenv("TRIVIUM_DATABASE_URL", f"sqlite+aiosqlite:///{away}")
        killed = _run("rollout", "reply", "--roll-back", "--reason", "everything is down")
    assert killed.exit_code == 1
    assert "rolled back, but not recorded" in killed.output
    assert _percent(folder) == "off"
    shown = json.loads(_run("rollout", "reply", "--json").stdout)
    assert (shown["stage"], shown["percent"]) == ("limited", 0)
    assert _run("rollout", "reply", "--roll-back", "--reason", "everything was down").exit_code == 0
    shown = json.loads(_run("rollout", "reply", "--json").stdout)
    assert (shown["stage"], shown["reason"]) == ("staging", "everything was down")


def test_a_hold_is_recorded_and_the_guards_blocks_an_advance(folder: Path) -> None:
    _promote(folder)
    assert _run("rollout", "reply", "--advance").exit_code == 0
    _fill(folder, 100)
    assert _run("rollout", "reply", "--hold", "--reason", "samples differ", "--by", "guard").exit_code == 0
    refused = _run("rollout", "reply", "--advance")
    assert refused.exit_code == 1
    assert "the guard holds it: samples differ" in refused.output
    assert _run("rollout", "reply", "--hold", "--reason", "looked into it", "--by", "me").exit_code == 0
    assert _run("rollout", "reply", "--advance").exit_code == 0


def test_a_second_feature_of_an_owner_in_limited_is_warned_about(folder: Path) -> None:
    _promote(folder)
    _promote(folder, "sort")
    assert "too" not in _run("rollout", "reply", "--advance").output
    assert (
        "reply of the same owner, support, is in limited too" in _run("rollout", "sort", "--advance").output
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--advance", "--hold"], "one of --advance"),
        (["--hold"], "say why"),
        (["--roll-back"], "say why"),
        (["--advance", "--override"], "say why"),
        (["--to", "limited"], "goes with --roll-back"),
        (["--override", "--reason", "x"], "goes with --advance"),
        (["--roll-back", "--to", "nowhere", "--reason", "x"], "nowhere"),
        (["--roll-back", "--to", "limited", "--reason", "x"], "limited is not before staging"),
        (["--hold", "--reason", "x", "--by", "x" * 129], "1 to 128 characters"),
    ],
)
def test_a_wrong_use_is_told(folder: Path, words: list[str], told: str) -> None:
    done = _run("rollout", "reply", *words)
    assert done.exit_code == 2
    assert told in done.output


def test_what_is_not_there_is_told(folder: Path) -> None:
    assert isinstance(_run("rollout", "nonsense").exception, TriviumError)
    assert "nonsense" in str(_run("status", "nonsense").exception)


@pytest.fixture
def filled(folder: Path) -> Callable[[], Any]:
    _promote(folder)
    assert _run("rollout", "reply", "--advance").exit_code == 0
    _fill(folder, 50)
    return lambda: None


def test_a_status_is_a_table_for_a_review(folder: Path, filled: Any) -> None:
    done = _run("status")
    assert done.exit_code == 0, done.output
    head, rule, reply, sort = done.output.strip().splitlines()
    assert head.count("|") == rule.count("|") == reply.count("|") == sort.count("|")
    assert reply.startswith("| reply | limited | 0.0 | 50 | 100.0% (")
    assert "n 50), met | 20.0% (" in reply
    assert "| staging | - | 0 | - |" in sort
    told = [json.loads(line) for line in _run("status", "--json").output.splitlines()]
    assert [one["feature"] for one in told] == ["reply", "sort"]
    assert told[0]["arms"]["treatment"]["override_rate"]["value"] == pytest.approx(0.2)


def test_a_status_is_split_by_day_variant_or_stage(folder: Path, filled: Any) -> None:
    rows = [
        json.loads(line) for line in _run("status", "reply", "--by", "variant", "--json").stdout.splitlines()
    ]
    assert [(row["part"], row["arm"], row["subjects"]) for row in rows] == [
        ("edge-v1/v1", "control", 50),
        ("edge-v1/v1", "treatment", 50),
    ]
    for by in ("day", "stage"):
        head, _, *lines = _run("status", "reply", "--by", by).stdout.strip().splitlines()
        assert {line.count("|") for line in lines} == {head.count("|")}
        assert {line.split(" | ")[2] for line in lines} == {"treatment", "control"}
    assert " limited | treatment | 50 | 50 | 50 | 100.0% (" in _run("status", "--by", "stage").stdout
