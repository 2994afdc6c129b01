"""`python -m batch_worker`: runs the worker."""

import os

from batch_worker.app import create_app
from batch_worker.settings import WorkerSettings
from trivium.web import run_server

if __name__ == "__main__":
    os.umask(0o077)  # what is written here holds inputs, answers and feedback
    chosen = WorkerSettings()
    run_server(lambda: create_app(chosen), chosen, "worker")
