"""Bodies are JSON whatever the text holds, and reach the server as they are."""

import json
from pathlib import Path

import pytest

from load.conftest import Serve
from trivium.errors import ConfigurationError
from trivium.load import Arrivals, Plan, Shape, make_bodies, read_texts, run_stage

HARD = (
    'say "no"',
    "two\nlines\t\\ and {braces}",
    "Grüße, 你好 🎉",
    "",
    "\u2028 \x00 end",
    "lone \ud800 half",
)


@pytest.mark.parametrize("shape", [*Shape, None])
def test_hard_texts_make_valid_json(shape: Shape | None, tmp_path: Path) -> None:
    template = tmp_path / "template.json"
    template.write_text('{"messages": [{"role": "user", "content": "Sort: {text}"}], "n": 1, "no": null}')
    bodies = [json.loads(body) for body in make_bodies(shape or template, HARD, 250)]
    for text, body in zip(HARD, bodies, strict=True):
        text = text.replace("\ud800", "?")
        if shape is Shape.OPEN_INFERENCE:
            tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
            assert body == {"inputs": [tensor]}
        elif shape is Shape.FEATURE:
            assert body["input"] == {"text": text} and body["deadline_ms"] == 250
        else:
            assert body == {"messages": [{"role": "user", "content": f"Sort: {text}"}], "n": 1, "no": None}


def test_each_subject_is_another() -> None:
    bodies = [json.loads(body) for body in make_bodies(Shape.FEATURE, ["a", "b"], 100)]
    assert bodies[0]["subject"] != bodies[1]["subject"]


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"text": 1}', r'no string in it has "\{text\}"'), ("{", "not JSON"), (None, "No such file")],
)
def test_a_faulty_template_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    template = tmp_path / "template.json"
    if content is not None:
        template.write_text(content)
    with pytest.raises(ConfigurationError, match=said):
        make_bodies(template, ["a"], 100)


def test_texts_are_read_in_a_seeded_order(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("no,message\n" + "".join(f"{i},text {i}\n" for i in range(50)))
    texts = read_texts(file, "message", seed=1)
    assert sorted(texts) == sorted(f"text {i}" for i in range(50)) and texts != sorted(texts)
    assert texts == read_texts(file, "message", seed=1)
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(ConfigurationError, match="one text at least"):
        read_texts(tmp_path / "empty.csv")


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("http://h:1/v2/models/m/infer", Shape.OPEN_INFERENCE),
        ("https://h/p/v1/features/f/infer", Shape.FEATURE),
    ],
)
def test_the_url_tells_the_shape(url: str, shape: Shape) -> None:
    assert Shape.of(url) is shape
    with pytest.raises(ConfigurationError, match="--shape"):
        Shape.of("http://h/predict")


async def test_the_server_reads_every_body_and_the_deadline(serve: Serve) -> None:
    server = serve("--keep")
    texts = ('a "quote"', "a\nline", "Grüße 🎉")
    target = server.target(texts, deadline_ms=80, headers={"X-Trace": "t1"})
    result = await run_stage(target, 30, 0.3, Plan(Arrivals.CONSTANT))
    assert result.outcomes.keys() <= {"ok", "late"}
    seen = server.seen()
    assert [json.loads(body)["inputs"][0]["data"][0] for body in seen["bodies"][:3]] == list(texts)
    assert "X-Deadline-Ms: 80\n" in seen["heads"][0] and "X-Trace: t1\n" in seen["heads"][0]
