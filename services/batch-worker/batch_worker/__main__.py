"""`python -m batch_worker`: runs the worker."""

from batch_worker.app import create_app
from batch_worker.settings import WorkerSettings
from trivium.web import run_server

if __name__ == "__main__":
    chosen = WorkerSettings()
    run_server(lambda: create_app(chosen), chosen, "worker")
