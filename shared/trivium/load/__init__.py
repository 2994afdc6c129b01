"""An open-loop load tester: the schedule never waits for the server, so its stalls show."""

from trivium.load.arrivals import Arrivals, arrival_times
from trivium.load.bodies import Shape, make_bodies, read_texts
from trivium.load.connection import run
from trivium.load.knee import Knee, Search, find_knee, sweep
from trivium.load.report import Report, write_report
from trivium.load.result import Goal, Percentiles, Readiness, StageResult
from trivium.load.side import check_target, settle
from trivium.load.stage import Monitor, Plan, StageProgress, run_stage
from trivium.load.target import Target

__all__ = [
    "Arrivals",
    "Goal",
    "Knee",
    "Monitor",
    "Percentiles",
    "Plan",
    "Readiness",
    "Report",
    "Search",
    "Shape",
    "StageProgress",
    "StageResult",
    "Target",
    "arrival_times",
    "check_target",
    "find_knee",
    "make_bodies",
    "read_texts",
    "run",
    "run_stage",
    "settle",
    "sweep",
    "write_report",
]
