"""`python -m edge_model`: serves the models."""

from edge_model.app import create_app
from edge_model.settings import EdgeSettings
from trivium.web import run_server

if __name__ == "__main__":
    chosen = EdgeSettings()
    run_server(lambda: create_app(chosen), chosen, "edge")
