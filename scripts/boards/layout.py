"""A dashboard: its rows of panels on a grid of 24 columns, its variables and its links."""

import json
import zlib
from dataclasses import dataclass

from boards.panels import DATASOURCE, Placed
from boards.queries import SCOPE
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

COLUMNS = 24
REFRESH = "30s"
TAG = "trivium"
RUNBOOKS = "https://runbooks.example.com/trivium"
"""Where the pages of deploy/runbooks are published; each installation sets its own in the dashboard."""


@dataclass(frozen=True)
class Row:
    """A heading, and panels from left to right, as many lines as they need."""

    title: str
    panels: tuple[Placed, ...]


@dataclass(frozen=True)
class Board:
    """One dashboard.

    Attributes:
        name: its file's, and with `trivium-` before it its uid.
        title: shown.
        told: what it answers.
        rows: from top to bottom.
        variable: by which one chooses what is shown, beside the namespace.
        since: the time shown at first.
        events: annotations: a title, and the expression that is over 0 when one happened.
    """

    name: str
    title: str
    told: str
    rows: tuple[Row, ...]
    variable: builders.QueryVariable | None = None
    since: str = "now-3h"
    events: tuple[tuple[str, str], ...] = ()

    def build(self) -> dashboard.Dashboard:
        """The dashboard in Grafana's own terms."""
        made = (
            builders.Dashboard(f"Trivium: {self.title}")
            .uid(f"trivium-{self.name}")
            .description(self.told)
            .tags([TAG])
            .editable()
            .timezone("browser")
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .time(self.since, "now")
            .refresh(REFRESH)
            .link(_other_boards())
        )
        for variable in (
            _datasource(),
            _namespace(),
            *([self.variable] if self.variable else []),
            _runbooks(),
        ):
            made.with_variable(variable)
        for title, expr in self.events:
            made.annotation(_event(title, expr))
        found = made.build()
        found.panels = list(_arranged(self.rows))
        return found

    def to_json(self) -> str:
        """The file's text, the same whenever it is made."""
        return json.dumps(self.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def one_of(metric: str, label: str, title: str) -> builders.QueryVariable:
    """A variable with the values of a metric's label, of which one is chosen."""
    made = _values(label, metric, SCOPE).label(title)
    return made.multi(False).include_all(False)


def _arranged(rows: tuple[Row, ...]) -> "list[dashboard.Panel | dashboard.RowPanel]":
    made: list[dashboard.Panel | dashboard.RowPanel] = []
    y = 0
    for row in rows:
        place = dashboard.GridPos(h=1, w=COLUMNS, x=0, y=y)
        made.append(
            dashboard.RowPanel(title=row.title, id_val=_id(row.title), collapsed=False, grid_pos=place)
        )
        y, x, tallest = y + 1, 0, 0
        for placed in row.panels:
            if x + placed.width > COLUMNS:
                y, x, tallest = y + tallest, 0, 0
            placed.panel.grid_pos = dashboard.GridPos(h=placed.height, w=placed.width, x=x, y=y)
            placed.panel.id_val = _id(f"{row.title}/{placed.panel.title}")
            made.append(placed.panel)
            x, tallest = x + placed.width, max(tallest, placed.height)
        y += tallest
    return made


def _id(name: str) -> int:
    """Of its name, so that a link to a panel holds when another is put before it."""
    return zlib.crc32(name.encode()) % 1_000_000 + 1


def _datasource() -> builders.DatasourceVariable:
    return builders.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _namespace() -> builders.QueryVariable:
    made = _values("namespace", "trivium_build_info", "").label("Namespace").include_all(True).multi(True)
    return made.all_value(".*").current(dashboard.VariableOption(text="All", value="$__all", selected=True))


def _runbooks() -> builders.TextBoxVariable:
    made = builders.TextBoxVariable("runbooks").label("Runbooks").default_value(RUNBOOKS)
    return made.current(dashboard.VariableOption(text=RUNBOOKS, value=RUNBOOKS))


def _values(label: str, metric: str, matchers: str) -> builders.QueryVariable:
    chosen = f"{metric}{{{matchers}}}" if matchers else metric
    query: dict[str, object] = {
        "query": f"label_values({chosen}, {label})",
        "refId": f"values-of-{label}",
        "qryType": 1,
    }
    made = builders.QueryVariable(label).query(query).datasource(DATASOURCE)
    made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return made.sort(dashboard.VariableSort.ALPHABETICAL_ASC)


def _event(title: str, expr: str) -> builders.AnnotationQuery:
    made = builders.AnnotationQuery().name(title).datasource(DATASOURCE).enable(True)
    return made.icon_color("purple").expr(expr)


def _other_boards() -> builders.DashboardLink:
    made = builders.DashboardLink("Trivium's dashboards").type(dashboard.DashboardLinkType.DASHBOARDS)
    return made.tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True)
