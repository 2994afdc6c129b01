"""Callers of a gateway that keep their connections, or make one for each request, until told to go."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread


class Caller(Thread):
    """Asks again and again; goes elsewhere (so: ends) when it is told to close, or may not connect anew.

    Args:
        pause_s: between an answer and the next request.
        keeps: its connection, as long as it is not told to close it.
    """

    def __init__(self, port: int, key: str, feature: str, pause_s: float, keeps: bool, leave: Event) -> None:
        super().__init__(daemon=True)
        self.answers: list[str] = []
        self.faults: list[str] = []
        self.told_to_close = False
        self._port, self._pause_s, self._keeps, self._leave = port, pause_s, keeps, leave
        self._path = f"/v1/features/{feature}/infer"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def run(self) -> None:
        """Until it has to go elsewhere."""
        connection = self._connect()
        while not self._leave.is_set() or self._keeps:
            self._ask(connection)
            if self.faults or self.told_to_close:
                break
            if not self._keeps:
                connection.close()
                connection = self._connect()
            time.sleep(self._pause_s)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        body = {"input": {"text": f"Where is my card? {len(self.answers)}"}, "subject": {"id": "u"}}
        try:
            connection.request("POST", self._path, json.dumps(body), self._headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.faults.append(repr(error))
            return
        if answer.status != 200:
            self.faults.append(f"{answer.status}: {told}")
            return
        self.answers.append(told["inference_id"])
        self.told_to_close = self._keeps and answer.getheader("Connection") == "close"


@contextmanager
def calling(port: int, key: str, asked: dict[str, tuple[float, ...]], leave: Event) -> Iterator[list[Caller]]:
    """Callers of features, two for each pause: one that keeps its connection, and one that does not."""
    callers = [
        Caller(port, key, feature, pause_s, keeps, leave)
        for feature, pauses in asked.items()
        for pause_s in pauses
        for keeps in (True, False)
    ]
    for caller in callers:
        caller.start()
    try:
        yield callers
    finally:
        leave.set()
        for caller in callers:
            caller.join(30)
