"""Versions of a dataset: what is in them, on which side, and that a written one is never changed."""

import json
import random
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support.corrections import MANIFEST, accepts, case, opinion, random_opinions, write_sort
from trivium.corrections.composition import Options
from trivium.corrections.dataset import Built, build
from trivium.corrections.evidence import Evidence, compared_fields
from trivium.corrections.sources import golden_of, read_base
from trivium.corrections.versions import EVAL, TRAIN, Card, Versions, load_version
from trivium.domain.corrections import Opinion, Verdict, tally
from trivium.domain.sameness import input_hash
from trivium.errors import ConfigurationError, DatasetError, NotFound
from trivium.features import Feature


class Bench:
    """Builds versions of the dataset of `sort`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.feature: Feature = write_sort(folder / "features")
        self.versions = Versions(folder / "datasets", "sort")

    def build(
        self, said: Iterable[Opinion], verdicts: dict[str, Verdict] | None = None, **options: Any
    ) -> Built:
        evidence = Evidence(tally(said, compared_fields(self.feature)))
        return build(self.feature, self.versions, evidence, verdicts or {}, Options(**options))

    def card(self, said: Iterable[Opinion], **more: Any) -> Card:
        made = self.build(said, **more)
        assert made.card, made
        return made.card

    def base(self, *rows: tuple[str, str]) -> Any:
        file = self.folder / "base.csv"
        file.write_text("message,intent\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
        return read_base(self.feature, file, "message", "intent")

    def train(self, number: int) -> dict[str, str]:
        return {row["text"]: row["label"] for row in self.versions.rows(number, TRAIN)}

    def cases(self, number: int) -> dict[str, str]:
        rows = self.versions.rows(number, EVAL)
        return {row["input"]["text"]: row["expected"]["label"] for row in rows}

    def both(self, number: int) -> dict[str, str]:
        return self.train(number) | self.cases(number)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_agreed_on_is_in_it_once_and_what_is_disputed_is_not(bench: Bench) -> None:
    said = [
        opinion("one", "a", "u-1"),
        accepts(" ONE ", "a", "u-2"),
        accepts("two", "b", "u-1"),
        opinion("three", "a", "u-1"),
        opinion("three", "b", "u-2"),
        accepts("four", "a", "u-1"),
        opinion("four", "b", "u-2"),
        opinion("a golden  QUESTION", "gold", "u-1"),
        opinion("five", {"label": "c", "in_scope": 0.4}, "u-1"),
        accepts("five", {"label": "c", "in_scope": 0.5}, "u-2"),
    ]
    made = bench.build(said)
    assert made.card
    assert bench.both(1) == {"one": "a", "two": "b", "five": "c"}
    assert made.left_out == {"disputed": 2, "in the golden set": 1}
    assert made.card.counts["train"].keys() | made.card.counts["eval"].keys() == {"correction", "accepted"}
    assert made.card.golden.sha256 == golden_of(bench.feature).sha256
    lineage = {row["input_hash"]: row for row in bench.versions.rows(1, "lineage.jsonl")}
    one = lineage[input_hash({"text": "one"})]
    assert one["feedback_ids"] == [said[0].feedback_id, said[1].feedback_id]
    assert one["inference_ids"] == [said[0].inference_id, said[1].inference_id]
    assert (one["kind"], one["subjects"], one["variants"]) == ("correction", 2, ["edge-v1/v1"])


def test_without_news_there_is_no_new_version(bench: Bench) -> None:
    assert bench.build([]) == Built()
    said = [opinion(f"q {n}", "a") for n in range(20)]
    assert bench.card(said).version == 1
    assert bench.build(said).same_as == 1
    # Who else says the same, and in which spelling, is no news; nor is what retention has forgotten.
    more = [accepts(f"  Q {n}", "a", "u-2") for n in range(20)]
    assert bench.build(said + more).same_as == 1
    assert bench.build(more).same_as == 1
    assert bench.build([]).same_as == 1
    assert bench.card([*said, opinion("new", "b")]).parent == 1
    assert bench.versions.numbers() == [1, 2]


@pytest.mark.parametrize("seed", range(4))
def test_the_same_is_built_in_whatever_order_things_are_read(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    said = random_opinions(rng, 300)
    shas = set()
    for n in range(3):
        rng.shuffle(said)
        card = Bench(tmp_path / str(n)).card(said)
        shas.add((card.content_sha256, card.files["lineage.jsonl"].sha256))
    assert len(shas) == 1


@pytest.mark.parametrize("seed", range(6))
def test_no_input_is_ever_trained_on_and_evaluated(seed: int, bench: Bench) -> None:
    rng = random.Random(seed)
    said: list[Opinion] = []
    trained: set[str] = set()
    evaluated: set[str] = set()
    golden = golden_of(bench.feature).hashes
    for turn in range(6):
        said += random_opinions(rng, 60, texts=150, subjects=9)
        base = bench.base(*((f"Question number {rng.randrange(200)}", "label-0") for _ in range(20)))
        since = None if turn % 3 else 0.0
        options = {
            "eval_share": rng.choice([0.1, 0.3, 0.6]),
            "base": rng.choice([None, base]),
            "since": since,
        }
        made = bench.build(rng.sample(said, k=len(said) // 2), **options)
        for number in bench.versions.numbers() if made.card else ():
            trained |= {row["input_hash"] for row in bench.versions.rows(number, TRAIN)}
            evaluated |= {row["id"] for row in bench.versions.rows(number, EVAL)}
        assert not trained & evaluated
        assert not (trained | evaluated) & golden
    assert trained and evaluated and len(bench.versions.numbers()) >= 3


def test_what_was_forgotten_stays_unless_a_verdict_or_a_dispute_takes_it_out(bench: Bench) -> None:
    said = [opinion(f"q {n}", "a") for n in range(10)]
    bench.card(said)
    hashed = [input_hash({"text": f"q {n}"}) for n in range(10)]
    verdicts = {
        hashed[0]: Verdict(hashed[0], "drop", None, "me", "spam", 1e9),
        hashed[1]: Verdict(hashed[1], "amend", {"label": "c"}, "me", None, 1e9),
    }
    disputed = [opinion("q 2", "a", "u-1"), opinion("q 2", "b", "u-2"), opinion("q 3", "b", "u-3")]
    made = bench.build(disputed, verdicts)
    assert made.left_out == {"dropped": 1, "disputed": 1}
    assert bench.both(2) == {"q 1": "c", "q 3": "b"} | {f"q {n}": "a" for n in range(4, 10)}
    only = bench.card(disputed, since=1.0)
    assert bench.both(only.version) == {"q 3": "b"}


def test_more_agreement_can_be_demanded(bench: Bench) -> None:
    said = [opinion("q", "a", "u-1"), opinion("q", "a", "u-2"), opinion("r", "a", "u-1")]
    bench.card(said)
    card = bench.card(said, min_agree=2)
    assert bench.both(card.version) == {"q": "a"}
    # Only one of the two is still to be read.
    assert bench.build(said[:1], min_agree=2).same_as == 2


def test_a_base_is_trained_on_but_for_what_is_evaluated(bench: Bench) -> None:
    said = [opinion(f"q {n}", "a", "u-1") for n in range(40)]
    bench.card(said, eval_share=0.5)
    held = bench.cases(1)
    assert 10 < len(held) < 30
    base = bench.base(
        ("A golden question", "gold"),
        ("older", "b"),
        (" OLDER ", "c"),
        ("new", "b"),
        *((text.upper(), "b") for text in held),
    )
    assert base.repeated == 1
    made = bench.build([*said, opinion("new", "n")], base=base, eval_share=0.99)
    assert made.card
    assert made.card.base and made.card.base.lines == 1
    train = bench.train(2)
    assert {text.lower(): label for text, label in train.items()} == {
        **{f"q {n}": "a" for n in range(40) if f"q {n}" not in held},
        "older": "b",
        "new": "n",
    }
    # What the base has is trained on, whatever its hash says; a correction replaces its label.
    assert bench.cases(2) == held
    assert any("1 labels of the base were replaced" in told for told in made.warnings)


def test_a_golden_input_that_was_trained_on_is_told(bench: Bench) -> None:
    bench.card([opinion("q", "a"), opinion("r", "a")], eval_share=0.0)
    write_sort(bench.folder / "features", [case("Q", "a")])
    made = bench.build([])
    assert made.card
    assert bench.both(2) == {"r": "a"}
    assert any("1 inputs of golden.jsonl stand in the train part" in told for told in made.warnings)


def test_labels_that_the_trainer_would_refuse_are_named(bench: Bench) -> None:
    said = [opinion(f"q {n}", "common") for n in range(3)] + [opinion("r", "rare")]
    (told,) = bench.build(said, eval_share=0.0).warnings
    assert told.endswith(": rare")


def test_a_written_version_is_read_only_and_a_change_is_noticed(bench: Bench) -> None:
    bench.card([opinion("q", "a"), opinion("r", "b")], eval_share=0.0)
    folder = bench.versions.path(1)
    for name in ("train.jsonl", "eval.jsonl", "lineage.jsonl", "card.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o444
    train = folder / TRAIN
    before = train.read_text()
    train.chmod(0o644)
    train.write_text(before.replace('"a"', '"x"'))
    with pytest.raises(DatasetError, match=r"train\.jsonl: a version is never changed"):
        load_version(folder)
    with pytest.raises(DatasetError, match="never changed"):
        bench.build([opinion("s", "a")])
    assert bench.versions.numbers() == [1]
    train.write_text(before)
    assert load_version(folder).version == 1
    (folder / EVAL).unlink()
    with pytest.raises(DatasetError, match=r"eval\.jsonl: No such file"):
        load_version(folder)
    with pytest.raises(NotFound, match="there are: 1"):
        bench.versions.load(7)


def test_what_a_killed_build_left_is_no_version(bench: Bench) -> None:
    left = bench.versions.folder / ".partial-1"
    left.mkdir(parents=True)
    (left / TRAIN).write_text("{")
    assert bench.card([opinion("q", "a")]).version == 1
    assert not left.exists()


def test_builds_at_once_make_one_version(bench: Bench) -> None:
    said = [opinion(f"q {n}", "a") for n in range(30)]
    built: list[Built] = []
    threads = [threading.Thread(target=lambda: built.append(bench.build(said))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.versions.numbers() == [1]
    assert sorted(one.same_as or 0 for one in built) == [0, 1, 1, 1]


def test_a_feature_of_another_pattern_has_whole_outputs(tmp_path: Path) -> None:
    manifest = MANIFEST.replace(
        "{pattern: edge, model: sort/1}", "{pattern: api, prompt: p.md, models: [a/b]}"
    )
    manifest = manifest.replace("edge-v1", "llm-v1")
    (tmp_path / "features/sort").mkdir(parents=True)
    (tmp_path / "features/sort/p.md").write_text("## user\n{{ text }}\n")
    bench = Bench(tmp_path)
    bench.feature = write_sort(tmp_path / "features", manifest=manifest)
    with pytest.raises(ConfigurationError, match="go with an edge variant"):
        bench.base(("x", "y"))
    said = [opinion("q", {"label": "a", "in_scope": 1.0}, "u-1"), opinion("q", "a", "u-2")]
    assert bench.build(said).left_out == {"disputed": 1}
    bench.card(said[:1], eval_share=0.0)
    (row,) = bench.versions.rows(1, TRAIN)
    assert row == {"text": "q", "label": "a", "in_scope": 1.0, "input_hash": said[0].input_hash}
    assert json.loads((bench.versions.path(1) / "card.json").read_text())["label_field"] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("message,intent\n,a\n", "no value for 'message'"),
        ("message,intent\n", "no record in it"),
        ("words,intent\nx,a\n", "no value for 'message'; it has words, intent"),
    ],
)
def test_a_base_that_does_not_read_is_told(bench: Bench, text: str, told: str) -> None:
    file = bench.folder / "base.csv"
    file.write_text(text)
    with pytest.raises(DatasetError, match=told):
        read_base(bench.feature, file, "message", "intent")
