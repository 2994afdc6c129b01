"""`python -m edge_model`: serves the models."""

import gc
import os

if __name__ == "__main__":
    os.umask(0o077)  # what is written here holds inputs, answers and feedback
    gc.disable()  # nothing of what is imported is garbage; the server enables it once it is up
    from edge_model.app import create_app
    from edge_model.settings import EdgeSettings
    from trivium.web import run_server

    chosen = EdgeSettings()
    run_server(lambda: create_app(chosen), chosen, "edge")
