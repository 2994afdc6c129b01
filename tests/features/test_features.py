import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trivium.errors import InvalidInput, ManifestError, NotFound, SchemaViolation
from trivium.features import Feature, find_feature, load_catalogue, load_feature

MANIFEST = """\
feature: triage
owner: support-platform
assessment:
  problem: Agents spend minutes choosing a queue.
  data: 10,003 labelled messages.
  acceptable_error_rate: 0.10
  when_wrong: The agent re-queues in one click.
success_metric: {name: time_to_queue_s, direction: down}
input:
  type: object
  required: [text]
  properties: {text: {type: string, maxLength: 40}, lang: {type: string}}
  additionalProperties: false
output:
  type: object
  required: [label]
  properties: {label: {type: string}}
deadline_ms: 2000
variants:
  edge-v1: {pattern: edge, model: triage/1, min_confidence: 0.5}
  llm-v1:
    pattern: api
    prompt: prompts/triage.md
    models: [local/smollm2]
    response_schema: schemas/labels.json
  llm-v2:
    pattern: api
    prompt: prompts/other.md
    models: [openai/gpt-4.1-mini]
  stored-v1:
    pattern: precomputed
    archive: tickets
    source: archive.jsonl
    compute: {neighbours: {model: triage/1, k: 5}}
serve: edge-v1
fallback: [llm-v1, {static: {label: general-queue}}]
rollout: {flag: triage}
evaluation: {dataset: evals/golden.jsonl}
budget: {monthly_usd: 500}
example: {input: {text: hello}, entity_key: T-1}
"""
FILES = {
    "prompts/triage.md": "## user\n{{ text }}\n",
    "prompts/other.md": "## user\nOther: {{ text }}\n",
    "schemas/labels.json": '{"type": "object"}\n',
    "archive.jsonl": '{"id": "T-1", "text": "hello"}\n',
    "evals/golden.jsonl": '{"id": "1"}\n',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good feature in a folder of its own."""
    made = tmp_path / "features" / "triage"
    for name, content in {"feature.yaml": MANIFEST, **FILES}.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return made


def _change(folder: Path, *changes: tuple[str, str]) -> None:
    """Replaces texts that stand once in the manifest."""
    text = (folder / "feature.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "feature.yaml").write_text(text)


def _load(folder: Path) -> Feature:
    return load_feature(folder / "feature.yaml")


def _faults(folder: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        _load(folder)
    return caught.value.detail.splitlines()


def _place(folder: Path, start: str) -> str:
    """`source:line: `, where the line is the one that starts so."""
    lines = (folder / "feature.yaml").read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, start=1) if line.strip().startswith(start)]
    return f"{folder / 'feature.yaml'}:{number}: "


# Loading


def test_the_features_of_the_checkout_load_and_take_their_own_examples(root: Path) -> None:
    catalogue = load_catalogue(root / "features")
    assert [feature.name for feature in catalogue] == ["similar-tickets", "ticket-summary", "ticket-triage"]
    for feature in catalogue:
        feature.check_input(feature.manifest.example.input)
        assert all(len(variant.version) == 12 for variant in feature.variants.values())
    patterns = {feature.variants[feature.manifest.serve].spec.pattern for feature in catalogue}
    assert patterns == {"api", "precomputed", "edge"}


def test_a_variant_is_loaded_with_the_text_of_what_it_names(folder: Path) -> None:
    feature = _load(folder)
    first, second = feature.variants["llm-v1"], feature.variants["llm-v2"]
    assert (first.prompt, second.prompt) == ("## user\n{{ text }}\n", "## user\nOther: {{ text }}\n")
    assert first.response_schema == {"type": "object"}
    assert second.response_schema == feature.manifest.output
    assert feature.variants["edge-v1"].prompt is None
    assert [variant.name for variant in feature.precomputed] == ["stored-v1"]


def test_one_feature_is_found_by_its_name_without_the_others(folder: Path) -> None:
    broken = folder.parent / "broken"
    broken.mkdir()
    (broken / "feature.yaml").write_text("feature: broken\n")
    assert find_feature(folder.parent, "triage").name == "triage"
    with pytest.raises(NotFound, match=r"'absent'.*there are: broken, triage"):
        find_feature(folder.parent, "absent")


def test_the_catalogue_names_what_it_has(folder: Path) -> None:
    catalogue = load_catalogue(folder.parent)
    assert catalogue.get("triage").name == "triage"
    with pytest.raises(NotFound, match="there are: triage"):
        catalogue.get("absent")


def test_the_catalogue_tells_every_fault_of_every_manifest(folder: Path) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    _change(other, ("feature: triage", "feature: other"), ("serve: edge-v1", "serve: nobody"))
    (folder / "prompts/triage.md").unlink()
    with pytest.raises(ManifestError) as caught:
        load_catalogue(folder.parent)
    first, second = caught.value.detail.splitlines()
    assert first.startswith(_place(other, "serve:") + "serve: 'nobody' is not a variant")
    assert second.startswith(_place(folder, "prompt: prompts/triage.md"))


def test_a_folder_without_features_is_a_fault_that_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="TRIVIUM_FEATURES_DIR"):
        load_catalogue(tmp_path)


# Faults of what a manifest names


@pytest.mark.parametrize(
    ("missing", "start", "field"),
    [
        ("prompts/triage.md", "prompt: prompts/triage.md", "variants.llm-v1.prompt"),
        ("prompts/other.md", "prompt: prompts/other.md", "variants.llm-v2.prompt"),
        ("schemas/labels.json", "response_schema:", "variants.llm-v1.response_schema"),
        ("archive.jsonl", "source:", "variants.stored-v1.source"),
        ("evals/golden.jsonl", "evaluation:", "evaluation.dataset"),
    ],
)
def test_a_missing_file_is_told_with_the_line_that_names_it(
    folder: Path, missing: str, start: str, field: str
) -> None:
    (folder / missing).unlink()
    (fault,) = _faults(folder)
    assert fault.startswith(f"{_place(folder, start)}{field}: ")
    assert missing in fault


@pytest.mark.parametrize(
    ("changes", "start", "message"),
    [
        (
            [("example: {input: {text: hello}", "example: {input: {}")],
            "example:",
            '"text" is a required property',
        ),
        (
            [("{input: {text: hello}", "{input: {text: 7}")],
            "example:",
            "example.input.text: 7 is not of type",
        ),
        (
            [("static: {label: general-queue}", "static: {label: 7}")],
            "fallback:",
            "output.label: 7 is not of type",
        ),
        ([("static: {label: general-queue}", "static: {}")], "fallback:", '"label" is a required property'),
        ([("feature: triage", "feature: another")], "feature:", "'another' stands in the folder 'triage'"),
        (
            [("serve: edge-v1", "serve: stored-v1"), (", entity_key: T-1", "")],
            "example:",
            "needs an entity_key",
        ),
    ],
    ids=[
        "example lacks a field",
        "example of another type",
        "static of another type",
        "static lacks a field",
        "name is not the folder's",
        "precomputed example without its key",
    ],
)
def test_what_does_not_match_is_told_with_its_line(
    folder: Path, changes: list[tuple[str, str]], start: str, message: str
) -> None:
    _change(folder, *changes)
    (fault,) = _faults(folder)
    assert fault.startswith(_place(folder, start))
    assert message in fault


def test_a_comment_that_names_a_key_is_not_taken_for_it(folder: Path) -> None:
    _change(
        folder,
        ("owner: support-platform", "owner: support-platform  # example: none yet"),
        ("text: hello", "text: 7"),
    )
    (fault,) = _faults(folder)
    assert fault.startswith(_place(folder, "example:"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "is not an object"),
        ('{"type": "strng"}', "not a JSON Schema"),
    ],
    ids=["cut off", "empty", "a list", "unknown type"],
)
def test_a_faulty_response_schema_does_not_load(folder: Path, content: str, message: str) -> None:
    (folder / "schemas/labels.json").write_text(content)
    (fault,) = _faults(folder)
    assert fault.startswith(_place(folder, "response_schema:") + "variants.llm-v1.response_schema: ")
    assert message in fault


def test_every_fault_of_what_is_named_is_told_at_once(folder: Path) -> None:
    for name in ("prompts/triage.md", "schemas/labels.json", "archive.jsonl", "evals/golden.jsonl"):
        (folder / name).unlink()
    _change(
        folder,
        ("feature: triage", "feature: another"),
        ("text: hello", "text: 7"),
        ("label: general-queue", "label: 7"),
    )
    starts = [
        "feature:",
        "prompt: prompts/triage.md",
        "response_schema:",
        "source:",
        "fallback:",
        "evaluation:",
        "example:",
    ]
    faults = _faults(folder)
    assert len(faults) == len(starts)
    for fault, start in zip(faults, starts, strict=True):
        assert fault.startswith(_place(folder, start))


@pytest.mark.parametrize("name", ["feature.yaml", "prompts/triage.md"])
def test_a_file_that_is_not_utf_8_is_a_fault_that_names_it(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"# \xe4\n")
    (fault,) = _faults(folder)
    assert fault.startswith(f"{folder / 'feature.yaml'}:")
    assert name in fault


# Versions


def _versions(folder: Path) -> dict[str, str]:
    return {name: variant.version for name, variant in _load(folder).variants.items()}


def _rewrite(name: str, content: str) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        (folder / name).write_text(content)

    return rewrite


def _replace(*changes: tuple[str, str]) -> Callable[[Path], None]:
    return lambda folder: _change(folder, *changes)


def _rename(old: str, new: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        (folder / old).rename(folder / new)
        _change(folder, (old, new))

    return rename


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        pytest.param(_rewrite("prompts/triage.md", "## user\n{{ text }}!\n"), {"llm-v1"}, id="prompt text"),
        pytest.param(
            _rewrite("prompts/other.md", "## user\n{{ text }}\n"), {"llm-v2"}, id="other prompt text"
        ),
        pytest.param(
            _rewrite("schemas/labels.json", '{"minProperties": 1}'), {"llm-v1"}, id="response schema"
        ),
        pytest.param(_replace(("local/smollm2", "local/qwen3")), {"llm-v1"}, id="model of an api variant"),
        pytest.param(
            _replace(("[local/smollm2]", "[local/smollm2, openai/gpt-4.1]")), {"llm-v1"}, id="one more model"
        ),
        pytest.param(
            _replace(("model: triage/1, min", "model: triage/2, min")), {"edge-v1"}, id="edge model"
        ),
        pytest.param(
            _replace(("model: triage/1, k", "model: triage/2, k")), {"stored-v1"}, id="embedding model"
        ),
        pytest.param(_replace(("min_confidence: 0.5", "min_confidence: 0.6")), {"edge-v1"}, id="confidence"),
        pytest.param(_replace(("k: 5", "k: 6")), {"stored-v1"}, id="number of neighbours"),
        pytest.param(
            _replace(
                ("models: [openai/gpt-4.1-mini]", "models: [openai/gpt-4.1-mini]\n    temperature: 0.1")
            ),
            {"llm-v2"},
            id="temperature",
        ),
        pytest.param(
            _replace(
                ("models: [openai/gpt-4.1-mini]", "models: [openai/gpt-4.1-mini]\n    max_output_tokens: 9")
            ),
            {"llm-v2"},
            id="tokens",
        ),
        pytest.param(
            _replace(("{label: {type: string}}", "{label: {type: string, minLength: 1}}")),
            {"edge-v1", "llm-v1", "llm-v2", "stored-v1"},
            id="output schema",
        ),
    ],
)
def test_a_version_changes_with_prompt_model_parameter_and_schema(
    folder: Path, change: Callable[[Path], None], changed: set[str]
) -> None:
    before = _versions(folder)
    change(folder)
    after = _versions(folder)
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_replace(("owner: support-platform", "owner: another-team")), id="owner"),
        pytest.param(_replace(("10,003 labelled", "10,004 labelled")), id="assessment"),
        pytest.param(_replace(("direction: down", "direction: up")), id="success metric"),
        pytest.param(_replace(("deadline_ms: 2000", "deadline_ms: 3000")), id="deadline"),
        pytest.param(_replace(("serve: edge-v1", "serve: stored-v1")), id="what is served"),
        pytest.param(_replace(("fallback: [llm-v1, ", "fallback: [llm-v2, ")), id="fallback"),
        pytest.param(_replace(("label: general-queue", "label: another-queue")), id="static output"),
        pytest.param(_replace(("flag: triage", "flag: another")), id="flag"),
        pytest.param(_replace(("monthly_usd: 500", "monthly_usd: 600")), id="budget"),
        pytest.param(_replace(("text: hello", "text: good morning")), id="example"),
        pytest.param(_replace(("maxLength: 40", "maxLength: 50")), id="input schema"),
        pytest.param(_replace(("serve:", "# a comment\n\nserve:")), id="comment"),
        pytest.param(
            _replace(("variants:", "variants:\n  edge-v0: {pattern: edge, model: old/1}")), id="new variant"
        ),
        pytest.param(
            _replace(
                (
                    "{pattern: edge, model: triage/1, min_confidence: 0.5}",
                    "{min_confidence: 0.50, model: triage/1, pattern: edge}",
                )
            ),
            id="order of keys",
        ),
        pytest.param(
            _replace(("min_confidence: 0.5}", "min_confidence: 0.5, text_field: text}")),
            id="default spelt out",
        ),
        pytest.param(
            _rewrite("schemas/labels.json", '{\n  "type":\n    "object"\n}'), id="layout of a schema"
        ),
        pytest.param(_rewrite("evals/golden.jsonl", '{"id": "2"}\n'), id="dataset"),
        pytest.param(_rewrite("archive.jsonl", ""), id="records of the archive"),
        pytest.param(_rename("prompts/triage.md", "prompts/sort.md"), id="name of the prompt's file"),
        pytest.param(_rename("schemas/labels.json", "schemas/queues.json"), id="name of the schema's file"),
        pytest.param(_rename("archive.jsonl", "records.jsonl"), id="name of the archive's file"),
    ],
)
def test_a_version_changes_with_nothing_else(folder: Path, change: Callable[[Path], None]) -> None:
    before = _versions(folder)
    change(folder)
    after = _versions(folder)
    assert {name: after[name] for name in before} == before


def test_a_version_depends_neither_on_the_variants_name_nor_on_the_features_folder(
    folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "sorting"
    shutil.copytree(folder, moved)
    _change(moved, ("feature: triage", "feature: sorting"), ("  llm-v2:", "  llm-renamed:"))
    assert sorted(_versions(moved).values()) == sorted(_versions(folder).values())


# Input and output


def test_an_input_that_does_not_match_is_refused_with_every_field(folder: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        _load(folder).check_input({"text": "x" * 41, "lang": 7})
    faults = {fault.field: fault for fault in caught.value.errors}
    assert set(faults) == {"input.text", "input.lang"}
    assert faults["input.lang"].value == 7
    assert "input.text: " in caught.value.detail
    with pytest.raises(InvalidInput, match='"text" is a required property'):
        _load(folder).check_input({})
    with pytest.raises(InvalidInput, match="colour"):
        _load(folder).check_input({"text": "x", "colour": "red"})


def test_an_output_that_does_not_match_is_a_schema_violation(folder: Path) -> None:
    feature = _load(folder)
    feature.check_output({"label": "general-queue"})
    with pytest.raises(SchemaViolation, match=r"output\.label: 7 is not of type") as caught:
        feature.check_output({"label": 7})
    assert [fault.field for fault in caught.value.errors] == ["output.label"]


def test_a_fault_does_not_repeat_a_long_input_whole(folder: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        _load(folder).check_input({"text": "x" * 100_000})
    assert len(caught.value.detail) < 1_000


# Variants that are computed with others


NEIGHBOURS = "    compute: {neighbours: {model: triage/1, k: 5}}\n"
WITH_OTHERS = "    compute: {variants: [edge-v1, llm-v1]}\n"


@pytest.fixture
def composed(folder: Path) -> Path:
    """The feature, whose stored results come from its other variants."""
    _change(folder, (NEIGHBOURS, WITH_OTHERS))
    return folder


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        pytest.param(_replace(("min_confidence: 0.5", "min_confidence: 0.6")), True, id="edge parameter"),
        pytest.param(_replace(("model: triage/1, min", "model: triage/2, min")), True, id="edge model"),
        pytest.param(_rewrite("prompts/triage.md", "## user\n{{ text }}!\n"), True, id="prompt"),
        pytest.param(_rewrite("schemas/labels.json", '{"minProperties": 1}'), True, id="response schema"),
        pytest.param(_replace(("[edge-v1, llm-v1]}", "[llm-v1, edge-v1]}")), True, id="order"),
        pytest.param(_replace(("[edge-v1, llm-v1]}", "[edge-v1]}")), True, id="one fewer"),
        pytest.param(_rewrite("prompts/other.md", "## user\nAgain\n"), False, id="prompt of another"),
        pytest.param(_rename("prompts/triage.md", "prompts/sort.md"), False, id="name of the prompt's file"),
    ],
)
def test_a_stored_result_is_of_another_version_when_what_it_is_computed_with_is(
    composed: Path, change: Callable[[Path], None], changes: bool
) -> None:
    before = _versions(composed)["stored-v1"]
    change(composed)
    assert (_versions(composed)["stored-v1"] != before) is changes


def test_variants_may_stand_in_any_order_in_the_manifest(composed: Path) -> None:
    before = _versions(composed)
    text = (composed / "feature.yaml").read_text()
    start, end = text.index("  stored-v1:"), text.index("serve:")
    stored = text[start:end]
    moved = text.replace(stored, "").replace("variants:\n", f"variants:\n{stored}", 1)
    (composed / "feature.yaml").write_text(moved)
    assert _versions(composed) == before


@pytest.mark.parametrize(
    "line",
    [
        "chunk_rows: 7",
        "max_error_ratio: 0.9",
        "max_cost_usd: 5",
        "schedule: {cron: '0 3 * * *', overlap: queue}",
        "max_age_s: 60",
        "hard_max_age_s: 900000",
        "timeout_ms: 100",
    ],
)
def test_when_and_within_what_bounds_a_run_works_is_no_part_of_a_version(composed: Path, line: str) -> None:
    before = _versions(composed)
    _change(composed, (WITH_OTHERS, f"{WITH_OTHERS}    {line}\n"))
    assert _versions(composed) == before


@pytest.mark.parametrize(
    "source",
    ["s3://bucket/rows.jsonl.gz", "{sql: 'SELECT id, text FROM ticket', connection: crm}"],
    ids=["url", "query"],
)
def test_where_records_come_from_is_no_part_of_a_version_and_no_file_to_be_there(
    composed: Path, source: str
) -> None:
    before = _versions(composed)
    _change(composed, ("source: archive.jsonl", f"source: {source}"))
    assert _versions(composed) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("archive: tickets", "archive: mails"),
        (WITH_OTHERS, f"{WITH_OTHERS}    key_field: ticket\n"),
        (WITH_OTHERS, "    compute: {template: {label: {$input: text}}}\n"),
    ],
    ids=["archive", "key field", "way to compute"],
)
def test_what_is_computed_from_and_how_is_part_of_a_version(composed: Path, old: str, new: str) -> None:
    before = _versions(composed)["stored-v1"]
    _change(composed, (old, new))
    assert _versions(composed)["stored-v1"] != before


def test_a_record_is_what_the_input_schema_names(folder: Path) -> None:
    feature = _load(folder)
    assert feature.record_of({"lang": "de", "id": "1", "text": "x", "more": 1}) == {"text": "x", "lang": "de"}
    assert feature.record_of({"more": 1}) == {}
