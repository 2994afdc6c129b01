"""From what a person says on the command line to a target."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from trivium.errors import ConfigurationError
from trivium.load.bodies import Shape, make_bodies, read_texts
from trivium.load.target import Target
from trivium.settings import LOOPBACK, Settings

TEXTS = "similar-tickets/archive.jsonl"
DEGRADED_MARK = b'"degraded":true'


class LoadSettings(Settings):
    """The keys that the environment may hold."""

    model_config = SettingsConfigDict(env_prefix="TRIVIUM_", env_ignore_empty=True, extra="ignore")

    api_key: SecretStr | None = Field(None, description="Key that the gateway is asked with by a load test.")


@dataclass(frozen=True, slots=True)
class Options:
    """What can be said about a target; `key` is used as a bearer token and kept nowhere.

    A feature's fallback answers are no goodput, unless `allow_degraded`.
    """

    url: str
    model: str | None = None
    shape: Shape | None = None
    body: Path | None = None
    data: Path | None = None
    text_field: str = "text"
    headers: Sequence[str] = ()
    key: str | None = field(default=None, repr=False)
    deadline_ms: float = 100.0
    ready_url: str | None = None
    seed: int = 0
    allow_degraded: bool = False


def make_target(options: Options) -> Target:
    """The target with its bodies and keys.

    Raises:
        ConfigurationError: an option is wrong. DatasetError: the file of texts does not read.
    """
    settings = LoadSettings()
    url = model_url(options.url, options.model)
    shape = options.body or options.shape or Shape.of(url)
    headers = dict(_header(given) for given in options.headers)
    if "authorization" not in {name.lower() for name in headers}:
        key = options.key or _usual_key(settings, url, shape)
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
    texts = read_texts(_data(options.data, settings), options.text_field, options.seed)
    return Target.post(
        url,
        make_bodies(shape, texts, options.deadline_ms),
        deadline_ms=options.deadline_ms,
        headers=headers,
        ready_url=options.ready_url,
        unless=DEGRADED_MARK if shape is Shape.FEATURE and not options.allow_degraded else None,
    )


def model_url(url: str, model: str | None) -> str:
    """The inference URL of a model, `name` or `name/version`, on an Open Inference server.

    Raises:
        ConfigurationError: the URL names a model already, and another.
    """
    if model is None:
        return url
    name, _, version = model.partition("/")
    path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "")
    if "/v2/models/" not in urlsplit(url).path:
        return f"{url.rstrip('/')}{path}/infer"
    if urlsplit(url).path.endswith(f"{path}/infer"):
        return url
    raise ConfigurationError(f"--url {url} and --model {model} differ; one of them is enough")


def _header(given: str) -> tuple[str, str]:
    name, colon, value = given.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError(f"--header {name!r}: no colon in it; right would be 'Name: value'")
    return name.strip(), value.strip()


def _data(given: Path | None, settings: Settings) -> Path:
    usual = settings.features_dir / TEXTS
    if given is None and not usual.exists():
        raise ConfigurationError(f"--data is needed: {usual}, which gives the texts by default, is not here")
    return given or usual


def _usual_key(settings: LoadSettings, url: str, shape: Shape | Path) -> str | None:
    """The environment's key for this kind of target; on this machine, else that of `trivium up`."""
    service_key = settings.service_key if "service_key" in settings.model_fields_set else None
    feature = shape is Shape.FEATURE
    keys = (settings.api_key, service_key) if feature else (service_key, settings.api_key)
    for found in keys:
        if found is not None:
            return found.get_secret_value()
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    made = settings.state_dir / ("dev.key" if feature else "service.key")
    return made.read_text("utf-8").strip() if made.exists() else settings.service_key.get_secret_value()
