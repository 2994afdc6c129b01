"""What the standard variables of OpenTelemetry ask for."""

from collections.abc import Mapping

ENDPOINTS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOLS = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
PROTOCOL = "http/protobuf"
EXPORTER = "OTEL_TRACES_EXPORTER"
DISABLED = "OTEL_SDK_DISABLED"


def wants_traces(environment: Mapping[str, str]) -> bool:
    """Whether there is somewhere to send traces to, and nothing that switches them off."""
    disabled = _value(environment, DISABLED).lower() == "true"
    off = _value(environment, EXPORTER).lower() == "none"
    return any(_value(environment, name) for name in ENDPOINTS) and not disabled and not off


def unsupported(environment: Mapping[str, str]) -> str | None:
    """What is asked for and cannot be had, with what can; None if all can."""
    for name in PROTOCOLS:
        if given := _value(environment, name):
            if given != PROTOCOL:
                return (
                    f"{name} is {given!r}; set {PROTOCOL}, the only one that is spoken here, and the "
                    "collector's HTTP port (4318 by custom) in the endpoint"
                )
            break
    exporter = _value(environment, EXPORTER)
    if exporter and exporter.lower() != "otlp":
        return f"{EXPORTER} is {exporter!r}; it may be otlp or none"
    for name in ENDPOINTS:
        given = _value(environment, name)
        if given and not given.lower().startswith(("http://", "https://")):
            return f"{name} is {given!r}; it must begin with http:// or https://"
    return None


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, "").strip()
