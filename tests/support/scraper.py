"""A real Prometheus that scrapes what it is told to and answers queries."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from support.edge import free_port
from support.prometheus import needed_folder

START_S = 30


class QueryRefused(Exception):
    """An expression that Prometheus cannot evaluate, with its reason."""


class Prometheus:
    """A server with its data below a folder; ends with its block.

    Args:
        folder: for its configuration and data.
        targets: `host:port` by job.
        key: sent with every scrape.
        rules: files of rules that it evaluates, all at its own interval.
        interval: of scrapes and of rules.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, str],
        key: str,
        rules: Iterable[Path] = (),
        interval: str = "250ms",
    ) -> None:
        self._folder = folder
        self._url = f"http://127.0.0.1:{free_port()}"
        jobs = [
            {
                "job_name": job,
                "authorization": {"credentials": key},
                "static_configs": [{"targets": [target]}],
            }
            for job, target in targets.items()
        ]
        every = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        config = {
            "global": every,
            "scrape_configs": jobs,
            "rule_files": [self._sped_up(path) for path in rules],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Prometheus":
        words = [
            f"--config.file={self._folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([needed_folder() / "prometheus", *words], stderr=log)
        end = time.monotonic() + START_S
        while not self._is_ready():
            assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)

    @property
    def _log(self) -> Path:
        return self._folder / "prometheus.log"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What an expression gives now: series with their `metric` and `value`.

        Raises:
            QueryRefused: it cannot be evaluated.
        """
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}")["data"]
        series: list[dict[str, Any]] = found["result"]
        return series if found["resultType"] == "vector" else [{"metric": {}, "value": series}]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its `health` and `lastError`."""
        groups = self._get("/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def until_scraped(self, times: int, jobs: int) -> None:
        """Waits until each job has been scraped so many times from now on.

        Raises:
            AssertionError: it was not within START_S, or a target is down.
        """
        begun = time.time()
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            window = int(time.time() - begun)
            counted = self.query(f"count_over_time(up[{window}s])") if window else []
            down = self.query("up == 0")
            if len(counted) == jobs and not down and all(float(c["value"][1]) > times for c in counted):
                return
            time.sleep(0.1)
        raise AssertionError(f"not all targets are up: {self.query('up')}\n{self._log.read_text()[-2000:]}")

    def _sped_up(self, path: Path) -> str:
        """A copy of a file of rules whose groups have no interval of their own."""
        groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        sooner = [{name: value for name, value in group.items() if name != "interval"} for group in groups]
        copied = self._folder / path.name
        copied.write_text(yaml.safe_dump({"groups": sooner}))
        return str(copied)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self._url}{path}", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise QueryRefused(error.read().decode()) from None
