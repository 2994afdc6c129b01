"""`python -m gateway`: serves the gateway."""

import os

from gateway.app import create_app
from gateway.settings import GatewaySettings
from trivium.web import run_server

if __name__ == "__main__":
    os.umask(0o077)  # what is written here holds inputs, answers and feedback
    chosen = GatewaySettings()
    run_server(lambda: create_app(chosen), chosen, "gateway")
