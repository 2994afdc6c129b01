"""`python -m edge_model`: serves the models."""

import os

from edge_model.app import create_app
from edge_model.settings import EdgeSettings
from trivium.web import run_server

if __name__ == "__main__":
    os.umask(0o077)  # what is written here holds inputs, answers and feedback
    chosen = EdgeSettings()
    run_server(lambda: create_app(chosen), chosen, "edge")
