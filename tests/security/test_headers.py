"""What every answer says to a browser, and that the documents' page loads nothing from elsewhere."""

import http.client
import re
from urllib.parse import urlsplit

import pytest

from support.attacked import Running
from support.edge import KEY, RunningEdge

SAID = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.fixture(params=["gateway", "edge", "worker"])
def service(request: pytest.FixtureRequest, gateway: Running, edge: RunningEdge) -> tuple[str, str]:
    """Each service's address and key."""
    return {
        "gateway": (gateway.url, gateway.key),
        "edge": (f"http://127.0.0.1:{edge.port}", KEY),
        "worker": (gateway.worker_url, KEY),
    }[request.param]


def _asked(
    service: tuple[str, str], path: str, method: str = "GET", key: bool = True
) -> tuple[int, dict[str, str], str]:
    url, secret = service
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {secret}"} if key else {})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        assert len(headers) == len(answer.getheaders()), answer.getheaders()
        return answer.status, headers, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/health/live", False, 200),
        ("GET", "/metrics", True, 200),
        ("GET", "/metrics", False, 401),
        ("GET", "/openapi.json", True, 200),
        ("GET", "/nowhere", True, 404),
        ("DELETE", "/metrics", True, 405),
    ],
)
def test_every_answer_has_the_headers_once(
    service: tuple[str, str], method: str, path: str, key: bool, status: int
) -> None:
    got, headers, _ = _asked(service, path, method, key)
    assert got == status
    assert SAID.items() <= headers.items()
    assert "server" not in headers


def test_the_documents_page_loads_its_own_files_alone(service: tuple[str, str]) -> None:
    assert _asked(service, "/docs", key=False)[0] == 401
    status, headers, page = _asked(service, "/docs")
    assert status == 200
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    files = [one for one in loaded if not one.startswith("data:")]
    assert len(files) == 3
    assert "<script>" not in page
    for path in files:
        assert path.startswith("/docs/")
        assert _asked(service, path, key=False)[0] == 401
        status, headers, text = _asked(service, path)
        assert status == 200
        assert len(text) > 100
        assert headers["content-type"].split(";")[0] in ("text/css", "text/javascript")
    assert 'url: "/openapi.json"' in _asked(service, "/docs/start.js")[2]
