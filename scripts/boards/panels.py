"""The panels that the dashboards are made of. Each has a unit and says what one does about it."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor, ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
STAT_HEIGHT = 4
NO_TRAFFIC = "no traffic"
# Told apart without colour: P50 is solid, P95 dashed, P99 dotted, a limit dashed long and thick.
DASHES = {"P95": [10.0, 6.0], "P99": [2.0, 4.0], "limit": [20.0, 8.0], "control": [10.0, 6.0]}


@dataclass(frozen=True)
class Query:
    """An expression and the name of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Placed:
    """A panel and the room that it takes: columns of 24, and rows of 30 pixels."""

    panel: dashboard.Panel
    width: int
    height: int


def lines(
    title: str,
    told: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    limit: float | None = None,
    stacked: bool = False,
    at_most: float | None = None,
    from_zero: bool = True,
    runbook: str = "",
) -> Placed:
    """Series over time, with their last and largest values in the legend.

    Args:
        title: what is shown.
        told: what one does about it.
        queries: what is shown.
        unit: Grafana's name of it.
        width: columns.
        limit: where a dashed line is drawn.
        stacked: one upon the other.
        at_most: the end of the axis.
        from_zero: whether the axis begins at 0.
        runbook: the alert whose page is linked.
    """
    made = (
        timeseries.Panel()
        .unit(unit)
        .line_width(2)
        .fill_opacity(25 if stacked else 0)
        .show_points(common.VisibilityMode.AUTO)
        .span_nulls(False)
        .legend(_legend())
        .tooltip(_tooltip())
        .color_scheme(FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    if from_zero:
        made.min(0)
    if stacked:
        made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if at_most is not None:
        made.max(at_most)
    if limit is not None:
        drawn = common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        made.thresholds(_steps(("transparent", None), ("red", limit))).thresholds_style(drawn)
    for name, dash in DASHES.items():
        style = dashboard.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": dash})
        made.override_by_regexp(f"/{name}/", [style])
    return _placed(made, title, told, queries, width, HEIGHT, runbook=runbook)


def number(
    title: str,
    told: str,
    *queries: Query,
    unit: str = "short",
    width: int = 4,
    bad_over: float | None = None,
    bad_under: float | None = None,
    words: dict[str, str] | None = None,
    when_empty: str = NO_TRAFFIC,
    named: bool = False,
    decimals: int | None = None,
    runbook: str = "",
) -> Placed:
    """The newest value, large; coloured beyond a limit, which its text tells too.

    Args:
        title: what is shown.
        told: what one does about it.
        queries: one value or several.
        unit: Grafana's name of it.
        width: columns.
        bad_over: from here on it is red.
        bad_under: up to here it is red.
        words: what values mean.
        when_empty: shown where there is no value.
        named: the series' names are what is to be read, not their values.
        decimals: shown; by default as many as fit.
        runbook: the alert whose page is linked.
    """
    made = (
        stat.Panel()
        .unit(unit)
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.NAME if named else common.BigValueTextMode.AUTO)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .no_value(when_empty)
        .mappings(meanings(words or {}))
    )
    if decimals is not None:
        made.decimals(decimals)
    if bad_over is not None:
        made.thresholds(_steps(("text", None), ("red", bad_over)))
    elif bad_under is not None:
        made.thresholds(_steps(("red", None), ("text", bad_under)))
    else:
        made.thresholds(_steps(("text", None)))
    placed = _placed(made, title, told, (), width, STAT_HEIGHT, runbook=runbook)
    placed.panel.targets = [_query(query, chr(65 + n)).instant().build() for n, query in enumerate(queries)]
    return placed


def states(
    title: str, told: str, query: Query, words: dict[str, str], *, width: int = 12, runbook: str = ""
) -> Placed:
    """States over time, each with its word in its bar."""
    made = (
        statetimeline.Panel()
        .mappings(meanings(words))
        .show_value(common.VisibilityMode.ALWAYS)
        .merge_values(True)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(70)
        .legend(common_builders.VizLegendOptions().show_legend(False))
        .color_scheme(FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(_steps(("green", None), ("orange", 1), ("red", 2)))
        .no_value("none")
    )
    return _placed(made, title, told, (query,), width, HEIGHT, runbook=runbook)


def heat(title: str, told: str, query: Query, *, unit: str, width: int = 12) -> Placed:
    """A histogram's buckets over time: how many fell into each."""
    made = (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .cell_gap(1)
        .hide_from(common_builders.HideSeriesConfig().legend(False).tooltip(False).viz(False))
        .show_value(common.VisibilityMode.AUTO)
        .show_tooltip()
    )
    placed = _placed(made, title, told, (), width, HEIGHT)
    target = _query(query, "A").format(PromQueryFormat.HEATMAP).range()
    placed.panel.targets = [target.build()]
    return placed


def rows(
    title: str, told: str, *queries: Query, units: tuple[str, ...], width: int = 8, shown: tuple[str, ...]
) -> Placed:
    """The newest values as a table: a line for each series, its labels `shown`, then a column for each query.

    Args:
        title: what is shown.
        told: what one does about it.
        queries: what is shown, and the heads of the columns.
        units: of each.
        width: columns of the grid.
        shown: labels, from left to right.
    """
    made = table.Panel().unit(units[0]).show_header(True).no_value("none yet")
    for query, unit in zip(queries, units, strict=True):
        made.override_by_name(query.legend, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    placed = _placed(made, title, told, (), width, HEIGHT)
    targets = [
        _query(query, chr(65 + n)).format(PromQueryFormat.TABLE).instant() for n, query in enumerate(queries)
    ]
    placed.panel.targets = [target.build() for target in targets]
    names = {f"Value #{chr(65 + n)}": query.legend for n, query in enumerate(queries)}
    order = {name: n for n, name in enumerate((*shown, *names))}
    tidy = {
        "excludeByName": {"Time": True},
        "indexByName": order,
        "renameByName": names if len(queries) > 1 else {"Value": queries[0].legend},
    }
    placed.panel.transformations = [
        dashboard.DataTransformerConfig(id_val="merge", options={}),
        dashboard.DataTransformerConfig(id_val="organize", options=tidy),
    ]
    return placed


def meanings(words: dict[str, str]) -> list[dashboard.ValueMapping]:
    """What values are called."""
    if not words:
        return []
    results = {
        value: dashboard.ValueMappingResult(text=text, index=n)
        for n, (value, text) in enumerate(words.items())
    }
    return [dashboard.ValueMap(options=results)]


def _placed(
    made: Builder[dashboard.Panel],
    title: str,
    told: str,
    queries: tuple[Query, ...],
    width: int,
    height: int,
    runbook: str = "",
) -> Placed:
    panel = made.build()
    panel.title, panel.description, panel.datasource = title, told, DATASOURCE
    panel.targets = [_query(query, chr(65 + n)).range().build() for n, query in enumerate(queries)]
    if runbook:
        link = DashboardLink(f"Runbook: {runbook}").type(dashboard.DashboardLinkType.LINK)
        panel.links = [link.url(f"${{runbooks}}/{runbook}.md").target_blank(True).build()]
    return Placed(panel, width, height)


def _query(query: Query, ref: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(DATASOURCE)
    return made.legend_format(query.legend) if query.legend else made


def _legend() -> common_builders.VizLegendOptions:
    made = common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM)
    return made.display_mode(common.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])


def _tooltip() -> common_builders.VizTooltipOptions:
    made = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    return made.sort(common.SortOrder.DESCENDING)


def _steps(*steps: tuple[str, float | None]) -> ThresholdsConfig:
    found = [dashboard.Threshold(color=color, value=value) for color, value in steps]
    return ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(found)
