"""A report as a page."""

from html.parser import HTMLParser

from trivium.domain.drift import ColumnReport, DriftReport, Shares
from trivium.drift.page import page_of


def test_the_page_shows_the_figures_and_escapes_what_users_sent() -> None:
    evil = "<script>alert(1)</script>"
    shares = Shares([evil, "b"], [0.25, 0.75], [1.0, 0.0])
    columns = [
        ColumnReport("length", "ks", 0.01, 0.1, 0.9, False, 200, 50, "median 4 to 4"),
        ColumnReport("output.label", "js", 0.31234, 0.1, 0.001, True, 200, 50, f"more: {evil}", shares),
    ]
    absent = {"embedding": "the edge model did not embed"}
    report = DriftReport("triage", "v", "1", 0.0, 60.0, 50, "a file", 200, 1_999, 0.05, columns, absent)
    page = page_of(report)
    HTMLParser().feed(page)
    assert "<script" not in page and "&lt;script&gt;" in page
    for expected in (
        "0.3123",
        "Drift was found",
        "not compared: the edge model",
        "1970-01-01 00:01:00",
        "<svg",
    ):
        assert expected in page
    assert page.index("output.label") < page.index(">length"), "the worst comes first"
    assert "http" not in page.replace("http-equiv", ""), "it needs nothing else"
