"""`python -m gateway`: serves the gateway."""

from gateway.app import create_app
from gateway.settings import GatewaySettings
from trivium.web import run_server

if __name__ == "__main__":
    chosen = GatewaySettings()
    run_server(lambda: create_app(chosen), chosen, "gateway")
