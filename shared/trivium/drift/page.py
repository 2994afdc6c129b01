"""A report as a page that needs nothing else: the figures are drawn into it."""

from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

from trivium.domain.drift import DriftReport

TEMPLATE = "report.html.j2"


def page_of(report: DriftReport) -> str:
    """The page, as HTML; whatever came from users is escaped."""
    environment = Environment(
        loader=PackageLoader("trivium.drift", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["moment"] = moment
    columns = sorted(report.columns, key=lambda column: -column.score)
    return environment.get_template(TEMPLATE).render(report=report, columns=columns)


def moment(at: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
