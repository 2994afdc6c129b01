"""A new version of a feature's dataset: what was agreed on, split so that nothing trained on is evaluated."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trivium.corrections.composition import BASE, Composition, Options
from trivium.corrections.evidence import Evidence, compared_fields
from trivium.corrections.sources import golden_of, left_of, text_field_of
from trivium.corrections.versions import EVAL, LINEAGE, TRAIN, Card, Versions, content_sha256
from trivium.domain.corrections import Example, Outcome, Tally, Verdict, carried, outcome
from trivium.domain.sameness import output_key, side_of
from trivium.errors import InvalidInput, SchemaViolation
from trivium.features import Feature

_LISTS = ("inference_ids", "feedback_ids", "variants")


@dataclass(slots=True)
class Built:
    """What came of it: a new version's `card`, or the version that it would have been the `same_as`."""

    card: Card | None = None
    same_as: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def build(
    feature: Feature,
    versions: Versions,
    evidence: Evidence,
    verdicts: Mapping[str, Verdict],
    options: Options,
) -> Built:
    """Writes the next version, if there is news.

    Without `since` the examples of the version before stay, though their payloads may have been forgotten.
    An input that ever was trained on, in any version or in the base, is never evaluated, and the other way
    round; those of the golden set are in neither part.

    Raises:
        DatasetError: an earlier version or the golden set does not read.
    """
    made = Built(left_out=Counter({f"feedback: {why}": n for why, n in evidence.left_out.items()}))
    golden = golden_of(feature)
    with versions.alone():
        sides = versions.sides()
        examples = _examples(feature, versions, evidence, verdicts, options, made.left_out)
        for hashed in examples.keys() & golden.hashes:
            del examples[hashed]
            made.left_out["in the golden set"] += 1
        evaluated = {hashed for hashed, side in sides.items() if side == "eval"}
        base = left_of(options.base, golden.hashes | evaluated)
        known = sides | dict.fromkeys(base, "train")
        split = {hashed: side_of(hashed, options.eval_share, known) for hashed in examples}
        composed = Composition(feature, golden, options, examples, base, split)
        made.warnings = composed.warnings(sides)
        texts = composed.texts()
        if not texts[TRAIN] and not texts[EVAL]:
            return made
        content = content_sha256(texts)
        numbers = versions.numbers()
        same = [number for number in numbers if versions.load(number).content_sha256 == content]
        if same:
            made.same_as = same[-1]
        else:
            left_out = dict(sorted(made.left_out.items()))
            made.card = versions.write(texts, composed.facts(max(numbers, default=None), left_out))
    return made


def _examples(
    feature: Feature,
    versions: Versions,
    evidence: Evidence,
    verdicts: Mapping[str, Verdict],
    options: Options,
    left_out: Counter[str],
) -> dict[str, Example]:
    fields = compared_fields(feature)
    before = {} if options.since is not None else _carried_over(versions)
    found: dict[str, Example] = {}
    for hashed in sorted(evidence.tallies.keys() | before.keys()):
        earlier = before.get(hashed)
        if earlier and earlier.kind != "reviewed" and earlier.subjects < options.min_agree:
            earlier = None
        said, verdict = evidence.tallies.get(hashed), verdicts.get(hashed)
        result = _result(earlier, said, verdict, options.min_agree, fields)
        if not isinstance(result, Example):
            left_out[result.replace("_", " ")] += 1
        elif why := _unfit(feature, result):
            left_out[why] += 1
        else:
            found[hashed] = result
    return found


def _result(
    earlier: Example | None,
    said: Tally | None,
    verdict: Verdict | None,
    min_agree: int,
    fields: tuple[str, ...],
) -> Outcome:
    if said is None:
        return carried(earlier, verdict) if earlier else "too_few"
    result = outcome(said, verdict, min_agree)
    if earlier is None:
        return result
    key = output_key(earlier.output, fields)
    if result == "too_few" and key == said.rights[0].key:
        return earlier  # what the others said has been forgotten
    if isinstance(result, Example) and output_key(result.output, fields) == key:
        # Its first wording stays: another one is no news.
        return replace(result, input=earlier.input, entity_key=earlier.entity_key, output=earlier.output)
    return result


def _carried_over(versions: Versions) -> dict[str, Example]:
    numbers = versions.numbers()
    if not numbers:
        return {}
    found = {}
    for row in versions.rows(numbers[-1], LINEAGE):
        if row["kind"] != BASE:
            ids: dict[str, Any] = {name: tuple(row[name]) for name in _LISTS}
            rest = {name: value for name, value in row.items() if name != "split"}
            found[row["input_hash"]] = Example(**(rest | ids))
    return found


def _unfit(feature: Feature, example: Example) -> str | None:
    text_field = text_field_of(feature)
    if text_field is not None and not isinstance(example.input.get(text_field), str):
        return f"without {text_field}"
    try:
        feature.check_input(example.input)
        feature.check_output(example.output)
    except (InvalidInput, SchemaViolation):
        return "no longer valid"
    return None
