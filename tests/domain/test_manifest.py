from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from trivium.domain.manifest import check_schema, manifest_schema, parse_manifest, variant_version
from trivium.domain.variants import ApiVariant, EdgeVariant, PrecomputedVariant, SqlSource
from trivium.errors import ManifestError

GOOD = """\
feature: ticket-triage
owner: support-platform
assessment:
  problem: Agents spend minutes choosing a queue.
  data: 10,003 labelled messages.
  acceptable_error_rate: 0.10
  when_wrong: The agent re-queues in one click.
success_metric: {name: time_to_queue_s, direction: down}
input:
  type: object
  properties:
    text: {type: string}
output:
  type: object
  properties:
    label: {type: string}
deadline_ms: 2000
variants:
  edge-v1:
    pattern: edge
    model: ticket-triage/1
    text_field: text
  llm-v1:
    pattern: api
    prompt: prompts/triage.md
    models:
      - local/smollm2
      - anthropic/claude-haiku-4-5
  stored-v1:
    pattern: precomputed
    archive: tickets
    compute: {neighbours: {model: ticket-triage/1}}
    max_age_s: 600
    hard_max_age_s: 6000
serve: edge-v1
fallback:
  - llm-v1
  - static: {label: general-queue}
rollout: {flag: ticket-triage}
evaluation:
  dataset: evals/golden.jsonl
  gates:
    accuracy: {min: 0.85}
budget: {monthly_usd: 500}
example: {input: {text: hello}}
"""


def _with(*changes: tuple[str, str]) -> str:
    """The good manifest with each first text, which stands in it once, replaced by the second."""
    text = GOOD
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _faults(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, "feature.yaml")
    return caught.value.detail.splitlines()


def _place(text: str, start: str, field: str) -> str:
    """`feature.yaml:line: field: `, where the line is the last that starts so."""
    numbers = [
        number for number, line in enumerate(text.splitlines(), start=1) if line.strip().startswith(start)
    ]
    return f"feature.yaml:{numbers[-1]}: {field}: "


def test_a_good_manifest_reads_with_its_defaults() -> None:
    manifest = parse_manifest(GOOD, "feature.yaml")
    edge, llm, stored = manifest.variants.values()
    assert isinstance(edge, EdgeVariant)
    assert isinstance(llm, ApiVariant)
    assert isinstance(stored, PrecomputedVariant)
    assert (edge.min_confidence, llm.temperature, llm.retries, stored.key_field) == (0.0, 0.0, 1, "id")
    assert manifest.rollout.gates.override_max == 0.40
    assert manifest.chain == ["edge-v1", "llm-v1"]
    assert manifest.static == {"label": "general-queue"}


def test_the_served_variant_moves_by_one_line() -> None:
    assert parse_manifest(_with(("serve: edge-v1", "serve: stored-v1")), "f").chain == ["stored-v1", "llm-v1"]


@pytest.mark.parametrize(
    ("old", "new", "start", "field", "message"),
    [
        pytest.param(*case[1:], id=case[0])
        for case in [
            (
                "unanswered: absent",
                "  problem: Agents spend minutes choosing a queue.\n",
                "",
                "assessment:",
                "assessment.problem",
                "is missing: answer it",
            ),
            (
                "unanswered: no value",
                "data: 10,003 labelled messages.",
                "data:",
                "data:",
                "assessment.data",
                "Input should be a valid string",
            ),
            (
                "unanswered: empty",
                "data: 10,003 labelled messages.",
                "data: ''",
                "data:",
                "assessment.data",
                "answer the question in a sentence",
            ),
            (
                "unanswered: TODO",
                "when_wrong: The agent re-queues in one click.",
                "when_wrong: TODO",
                "when_wrong:",
                "assessment.when_wrong",
                "answer the question in a sentence, not 'TODO'",
            ),
            (
                "unanswered: ???",
                "problem: Agents spend minutes choosing a queue.",
                "problem: ???",
                "problem:",
                "assessment.problem",
                "answer the question in a sentence",
            ),
            (
                "unanswered: n/a",
                "problem: Agents spend minutes choosing a queue.",
                "problem: (n/a).",
                "problem:",
                "assessment.problem",
                "answer the question in a sentence",
            ),
            (
                "error rate out of bounds",
                "acceptable_error_rate: 0.10",
                "acceptable_error_rate: 1",
                "acceptable_error_rate",
                "assessment.acceptable_error_rate",
                "Input should be less than 1, not 1",
            ),
            (
                "unknown key",
                "owner: support-platform",
                "owner: support-platform\nowners: [a]",
                "owners:",
                "owners",
                "is not a key of the format",
            ),
            (
                "unknown key of a variant",
                "    archive: tickets\n",
                "    archive: tickets\n    archives: b\n",
                "archives:",
                "variants.stored-v1.archives",
                "is not a key of the format",
            ),
            (
                "unknown key, deep down",
                "{neighbours: {model: ticket-triage/1}}",
                "\n      neighbours:\n        model: ticket-triage/1\n        metric: l2",
                "metric: l2",
                "variants.stored-v1.compute.neighbours.metric",
                "is not a key of the format",
            ),
            (
                "duplicate key",
                "owner: support-platform",
                "owner: support-platform\nowner: another",
                "owner: another",
                "owner",
                "stands twice",
            ),
            (
                "duplicate variant",
                "  stored-v1:",
                "  edge-v1: {pattern: edge, model: other}\n  stored-v1:",
                "edge-v1: {",
                "variants.edge-v1",
                "stands twice",
            ),
            (
                "missing static end",
                "  - static: {label: general-queue}\n",
                "",
                "- llm-v1",
                "fallback.0",
                "the last step must be static",
            ),
            (
                "static too early",
                "  - llm-v1\n",
                "  - static: {label: early}\n  - llm-v1\n",
                "- static: {label: early",
                "fallback.0",
                "static always answers, so it can only be the last step",
            ),
            (
                "unknown served variant",
                "serve: edge-v1",
                "serve: edge-v2",
                "serve:",
                "serve",
                "'edge-v2' is not a variant; there are edge-v1, llm-v1, stored-v1",
            ),
            (
                "unknown variant in the fallback",
                "  - llm-v1\n",
                "  - llm-v1\n  - llm-v9\n",
                "- llm-v9",
                "fallback.1",
                "'llm-v9' is not a variant; there are edge-v1, llm-v1, stored-v1",
            ),
            (
                "served variant again in the fallback",
                "  - llm-v1\n",
                "  - edge-v1\n",
                "- edge-v1",
                "fallback.0",
                "'edge-v1' stands in the chain already",
            ),
            (
                "variant twice in the fallback",
                "  - llm-v1\n",
                "  - llm-v1\n  - stored-v1\n  - llm-v1  # again\n",
                "- llm-v1  # again",
                "fallback.2",
                "'llm-v1'",
            ),
            (
                "bad input schema",
                "    text: {type: string}",
                "    text: {type: strng}",
                "input:",
                "input",
                "not a JSON Schema",
            ),
            (
                "bad output schema",
                "    label: {type: string}",
                "    label: {type: string, minLength: -1}",
                "output:",
                "output",
                "not a JSON Schema: -1 is less than the minimum",
            ),
            (
                "bad pattern in a schema",
                "    label: {type: string}",
                "    label: {pattern: '('}",
                "output:",
                "output",
                "not a JSON Schema",
            ),
            (
                "reference into nothing",
                "    label: {type: string}",
                "    label: {$ref: '#/$defs/label'}",
                "output:",
                "output",
                "not a JSON Schema",
            ),
            (
                "output that is no object",
                "output:\n  type: object",
                "output:\n  type: array",
                "output:",
                "output",
                "must be a schema of type: object",
            ),
            (
                "hard_max_age under max_age",
                "hard_max_age_s: 6000",
                "hard_max_age_s: 599",
                "hard_max_age_s",
                "variants.stored-v1.hard_max_age_s",
                "is under max_age_s, 600",
            ),
            (
                "model without a provider",
                "      - local/smollm2",
                "      - smollm2",
                "- smollm2",
                "variants.llm-v1.models.0",
                "'smollm2' must be provider/model",
            ),
            (
                "text field that the input lacks",
                "text_field: text",
                "text_field: body",
                "text_field:",
                "variants.edge-v1.text_field",
                "'body' is not a property of input",
            ),
            (
                "timeout over the deadline",
                "    pattern: edge\n",
                "    pattern: edge\n    timeout_ms: 2001\n",
                "timeout_ms",
                "variants.edge-v1.timeout_ms",
                "is over deadline_ms, 2000",
            ),
            (
                "unknown pattern",
                "    pattern: edge\n",
                "    pattern: magic\n",
                "edge-v1:",
                "variants.edge-v1",
                "'api', 'edge', 'precomputed'",
            ),
            (
                "gate without a bound",
                "accuracy: {min: 0.85}",
                "accuracy: {}",
                "accuracy:",
                "evaluation.gates.accuracy",
                "give min, max or both",
            ),
            (
                "wrong type in a gate",
                "accuracy: {min: 0.85}",
                "accuracy: {min: much}",
                "accuracy:",
                "evaluation.gates.accuracy.min",
                "valid number",
            ),
            (
                "wrong type in a gate that is called like a pattern",
                "accuracy: {min: 0.85}",
                "edge: {min: much}",
                "edge: {min",
                "evaluation.gates.edge.min",
                "valid number",
            ),
            (
                "deadline too long",
                "deadline_ms: 2000",
                "deadline_ms: 60001",
                "deadline_ms",
                "deadline_ms",
                "60000",
            ),
            (
                "no budget",
                "monthly_usd: 500",
                "monthly_usd: 0",
                "budget:",
                "budget.monthly_usd",
                "greater than 0",
            ),
            (
                "name with capitals",
                "feature: ticket-triage",
                "feature: Triage",
                "feature:",
                "feature",
                "not 'Triage'",
            ),
        ]
    ],
)
def test_a_fault_is_told_once_with_its_line_its_field_and_what_is_wrong(
    old: str, new: str, start: str, field: str, message: str
) -> None:
    text = _with((old, new))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, start, field))
    assert message in fault


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (
            "success_metric: {name: time_to_queue_s,",
            "success_metric: {name: Time to queue,",
            "success_metric.name",
        ),
        ("  - static: {label: general-queue}", "  - {static: {label: q}, foo: 1}", "fallback.1.foo"),
        ("  - llm-v1\n", "  - 7\n", "fallback.0"),
    ],
    ids=["metric name", "static with a stranger", "a number as a step"],
)
def test_a_value_of_two_possible_kinds_is_one_fault_and_its_field_is_that_of_the_file(
    old: str, new: str, field: str
) -> None:
    text = _with((old, new))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, new.strip(), field))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("feature: [open\n", 2),
        ("feature: a\n\towner: b\n", 2),
        ("feature: a\n---\nfeature: b\n", 2),
        ("feature: a\nowner: !!python/name:os.system\n", 2),
        ("feature: a\nowner: *nobody\n", 2),
        ("feature: a\nowner: b\x07\n", 2),
    ],
    ids=[
        "open bracket",
        "tab",
        "two documents",
        "python tag",
        "unknown alias",
        "control character",
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(text: str, line: int) -> None:
    assert any(fault.startswith(f"feature.yaml:{line}: ") for fault in _faults(text))


@pytest.mark.parametrize("date", ["2024-01-31", "2024-13-45", "2024-01-31 10:00:00"])
def test_what_looks_like_a_date_is_text_as_it_is_in_json(date: str) -> None:
    text = _with(("owner: support-platform", f"owner: {date}"), ("label: general-queue", f"label: {date}"))
    manifest = parse_manifest(text, "feature.yaml")
    assert (manifest.owner, manifest.static) == (date, {"label": date})


@pytest.mark.parametrize(
    "value",
    ["!!int many", "0x_", "9" * 5_000, "!!timestamp 2024-13-45", "{? [a] : b}", "[" * 500],
    ids=["tag", "hexadecimal", "digits", "impossible date", "list as a key", "depth"],
)
def test_a_value_that_python_cannot_hold_is_a_fault_and_no_crash(value: str) -> None:
    assert all(fault.startswith("feature.yaml:") for fault in _faults(f"feature: a\nowner: {value}\n"))


@pytest.mark.parametrize("text", ["hello", "- a\n- b\n", "7"])
def test_a_file_that_is_no_mapping_is_one_fault(text: str) -> None:
    (fault,) = _faults(text)
    assert fault.startswith("feature.yaml:1: manifest: ")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_manifest_lacks_every_key(text: str) -> None:
    faults = _faults(text)
    keys = list(yaml.safe_load(GOOD))
    assert sorted(faults) == sorted(f"feature.yaml:1: {key}: is missing" for key in keys)


def test_all_faults_of_the_format_are_told_at_once_in_the_order_of_the_file() -> None:
    text = _with(
        ("owner: support-platform", "owner: support-platform\nowner: ''"),
        ("  data: 10,003 labelled messages.", "  data: TBD"),
        ("  when_wrong: The agent re-queues in one click.\n", ""),
        ("deadline_ms: 2000", "deadline_ms: soon"),
        ("    archive: tickets", "    archive: tickets\n    colour: red"),
        ("monthly_usd: 500", "monthly_usd: -1"),
    )
    places = [
        ("owner: ''", "owner"),
        ("owner: ''", "owner"),
        ("assessment:", "assessment.when_wrong"),
        ("data: TBD", "assessment.data"),
        ("deadline_ms:", "deadline_ms"),
        ("colour:", "variants.stored-v1.colour"),
        ("budget:", "budget.monthly_usd"),
    ]
    faults = _faults(text)
    assert len(faults) == len(places)
    for fault, (start, field) in zip(faults, places, strict=True):
        assert fault.startswith(_place(text, start, field))


def test_all_faults_between_fields_are_told_at_once() -> None:
    text = _with(
        ("    text: {type: string}", "    text: {type: strng}"),
        ("  type: object\n  properties:\n    label: {type: string}", "  type: array"),
        ("text_field: text", "text_field: body"),
        ("hard_max_age_s: 6000", "hard_max_age_s: 1"),
        ("serve: edge-v1", "serve: nobody"),
        ("  - static: {label: general-queue}", "  - no-one"),
        ("accuracy: {min: 0.85}", "accuracy: {}"),
    )
    places = [
        ("input:", "input"),
        ("output:", "output"),
        ("text_field:", "variants.edge-v1.text_field"),
        ("hard_max_age_s:", "variants.stored-v1.hard_max_age_s"),
        ("serve:", "serve"),
        ("- no-one", "fallback.1"),
        ("- no-one", "fallback.1"),
        ("accuracy:", "evaluation.gates.accuracy"),
    ]
    faults = _faults(text)
    assert len(faults) == len(places)
    for fault, (start, field) in zip(faults, places, strict=True):
        assert fault.startswith(_place(text, start, field))


def test_an_unanswered_question_does_not_hide_the_faults_between_fields() -> None:
    text = _with(
        ("  data: 10,003 labelled messages.", "  data: TBD"),
        ("    text: {type: string}", "    text: {type: strng}"),
        ("serve: edge-v1", "serve: nobody"),
        ("  - static: {label: general-queue}\n", ""),
    )
    told = "\n".join(_faults(text))
    for start, field in [
        ("data: TBD", "assessment.data"),
        ("input:", "input"),
        ("serve:", "serve"),
        ("- llm-v1", "fallback.0"),
    ]:
        assert _place(text, start, field) in told


def test_properties_left_empty_are_a_fault_of_the_schema_and_no_crash() -> None:
    text = _with(("  properties:\n    text: {type: string}\n", "  properties:\n"))
    assert any(fault.startswith(_place(text, "input:", "input")) for fault in _faults(text))


def test_a_key_that_is_a_number_is_a_fault_like_any_other() -> None:
    text = _with(("success_metric: {name: time_to_queue_s,", "success_metric: {1: a, nmae: b,"))
    faults = _faults(text)
    assert any("success_metric.1" in fault for fault in faults)
    assert any("success_metric.nmae: is not a key of the format" in fault for fault in faults)


def test_the_published_schema_knows_the_format() -> None:
    validator = jsonschema_rs.validator_for(manifest_schema())
    manifest = yaml.safe_load(GOOD)
    assert validator.is_valid(manifest)
    assert not validator.is_valid({**manifest, "owners": ["a"]})
    assert not validator.is_valid({**manifest, "assessment": {}})


def test_the_manifests_of_the_checkout_read(root: Path) -> None:
    sources = sorted(root.glob("features/*/feature.yaml"))
    assert sources
    for source in sources:
        assert parse_manifest(source.read_text(encoding="utf-8"), str(source)).feature == source.parent.name


def test_a_schema_that_is_one_has_no_fault() -> None:
    assert (
        check_schema({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": True}})
        is None
    )


def test_a_version_is_twelve_hex_digits_of_the_content_whatever_its_order() -> None:
    version = variant_version({"a": 1, "b": {"c": "é", "d": [1, 2]}})
    assert len(version) == 12
    assert int(version, 16) >= 0
    assert version == variant_version({"b": {"d": [1, 2], "c": "é"}, "a": 1})
    assert version != variant_version({"a": 1, "b": {"c": "é", "d": [2, 1]}})
    assert version != variant_version({"a": "1", "b": {"c": "é", "d": [1, 2]}})


@pytest.mark.parametrize("reference", ["http://127.0.0.1:9/schema.json", "file:///etc/hostname"])
def test_a_schema_looks_nothing_up_outside_itself(reference: str) -> None:
    assert "leads out of the schema" in str(check_schema({"type": "object", "$ref": reference}))


COMPUTE = "compute: {neighbours: {model: ticket-triage/1}}"


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        ("compute: {}", "give one of neighbours, variants, template, not none"),
        ("compute: {variants: [edge-v1], template: {label: x}}", "not variants and template"),
        (
            "compute: {neighbours: {model: m/1}, variants: [edge-v1], template: {}}",
            "not neighbours and variants and template",
        ),
        ("compute: {template: {label: x}, batch_api: true}", "batch_api goes with variants"),
        ("compute: {neighbours: {model: m/1}, batch_api: true}", "batch_api goes with variants"),
    ],
)
def test_a_result_is_computed_in_exactly_one_way(compute: str, told: str) -> None:
    text = _with((COMPUTE, compute))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, "compute:", "variants.stored-v1.compute"))
    assert told in fault


@pytest.mark.parametrize(
    "compute",
    [
        "compute: {variants: [edge-v1, llm-v1]}",
        "compute: {variants: [llm-v1, edge-v1], batch_api: true}",
        "compute: {template: {label: {$input: text}}}",
        "compute: {template: {}}",
        "compute: {neighbours: {model: m/1, k: 100}}",
    ],
)
def test_each_way_to_compute_reads(compute: str) -> None:
    stored = parse_manifest(_with((COMPUTE, compute)), "f").variants["stored-v1"]
    assert isinstance(stored, PrecomputedVariant)


@pytest.mark.parametrize(
    ("compute", "field", "told"),
    [
        ("compute: {variants: []}", "compute.variants", "at least 1 item"),
        ("compute: {neighbours: {model: m/1, k: 0}}", "compute.neighbours.k", "greater than or equal to 1"),
        ("compute: {neighbours: {model: m/1, k: 101}}", "compute.neighbours.k", "less than or equal to 100"),
        ("compute: {variants: [edge-v9]}", "compute.variants.0", "'edge-v9' is not a variant; there are"),
        (
            "compute: {variants: [edge-v1, stored-v1]}",
            "compute.variants.1",
            "'stored-v1' is precomputed itself; name an edge or an api variant",
        ),
        (
            "compute: {variants: [edge-v1, llm-v1], batch_api: true}",
            "compute.variants.0",
            "'edge-v1' has no vendor with a batch API; name an api variant",
        ),
    ],
)
def test_what_is_computed_with_is_there_and_fits(compute: str, field: str, told: str) -> None:
    text = _with((COMPUTE, compute))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, "compute:", f"variants.stored-v1.{field}"))
    assert told in fault


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("'* * * *'", "not a cron expression"),
        ("'61 * * * *'", "not a cron expression"),
        ("every night", "not a cron expression"),
        ("''", "not a cron expression"),
        ("'0 0 30 2 *'", "not a cron expression"),
        ("'0 0 31 4,6 *'", "not a cron expression"),
        ("7", "valid string"),
    ],
)
def test_a_schedule_that_is_none_is_told(cron: str, told: str) -> None:
    text = _with((COMPUTE, f"{COMPUTE}\n    source: rows.jsonl\n    schedule: {{cron: {cron}}}"))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, "schedule:", "variants.stored-v1.schedule.cron"))
    assert told in fault


def test_a_schedule_needs_a_source_to_run_over() -> None:
    text = _with((COMPUTE, f"{COMPUTE}\n    schedule: {{cron: '0 3 * * *'}}"))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, "schedule:", "variants.stored-v1.schedule"))
    assert "needs a source" in fault


@pytest.mark.parametrize("overlap", ["skip", "queue"])
@pytest.mark.parametrize("cron", ["'0 3 * * *'", "'*/5 8-18 * * MON-FRI'", "'0 0 29 2 *'"])
def test_a_schedule_reads(cron: str, overlap: str) -> None:
    added = f"\n    source: rows.jsonl\n    schedule: {{cron: {cron}, overlap: {overlap}}}"
    stored = parse_manifest(_with((COMPUTE, COMPUTE + added)), "f").variants["stored-v1"]
    assert isinstance(stored, PrecomputedVariant) and stored.schedule
    assert (f"'{stored.schedule.cron}'", stored.schedule.overlap) == (cron, overlap)


@pytest.mark.parametrize(
    "source",
    ["rows.jsonl", "s3://bucket/rows.csv.gz", "{sql: SELECT id FROM ticket, connection: crm}"],
    ids=["file", "url", "query"],
)
def test_a_source_is_a_file_a_url_or_a_query(source: str) -> None:
    stored = parse_manifest(_with((COMPUTE, f"{COMPUTE}\n    source: {source}")), "f").variants["stored-v1"]
    assert isinstance(stored, PrecomputedVariant)
    assert isinstance(stored.source, SqlSource) == source.startswith("{")


@pytest.mark.parametrize(
    "source", ["{sql: SELECT 1}", "{sql: SELECT 1, connection: CRM}", "{connection: crm}", "7", "[a, b]"]
)
def test_a_source_that_is_none_of_them_is_told_in_its_line(source: str) -> None:
    text = _with((COMPUTE, f"{COMPUTE}\n    source: {source}"))
    faults = _faults(text)
    place = _place(text, "source:", "variants.stored-v1.source").removesuffix(": ")
    assert all(fault.startswith(place) for fault in faults)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("chunk_rows: 0", "chunk_rows"),
        ("chunk_rows: 10001", "chunk_rows"),
        ("max_error_ratio: 1.1", "max_error_ratio"),
        ("max_error_ratio: -0.1", "max_error_ratio"),
        ("max_cost_usd: 0", "max_cost_usd"),
        ("schedule: {cron: '0 3 * * *', overlap: refuse}", "schedule.overlap"),
        ("key_field: 7", "key_field"),
    ],
)
def test_a_limit_of_a_run_that_is_out_of_bounds_is_told(line: str, field: str) -> None:
    text = _with((COMPUTE, f"{COMPUTE}\n    {line}"))
    (fault,) = _faults(text)
    assert fault.startswith(_place(text, line, f"variants.stored-v1.{field}"))
