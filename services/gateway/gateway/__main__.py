"""`python -m gateway`: serves the gateway."""

import gc
import os

if __name__ == "__main__":
    os.umask(0o077)  # what is written here holds inputs, answers and feedback
    gc.disable()  # nothing of what is imported is garbage; the server enables it once it is up
    from gateway.app import create_app
    from gateway.settings import GatewaySettings
    from trivium.web import run_server

    chosen = GatewaySettings()
    run_server(lambda: create_app(chosen), chosen, "gateway")
