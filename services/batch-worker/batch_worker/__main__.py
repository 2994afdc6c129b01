"""`python -m batch_worker`: runs the worker."""

import gc
import os

if __name__ == "__main__":
    os.umask(0o077)  # what is written here holds inputs, answers and feedback
    gc.disable()  # nothing of what is imported is garbage; the server enables it once it is up
    from batch_worker.app import create_app
    from batch_worker.settings import WorkerSettings
    from trivium.web import run_server

    chosen = WorkerSettings()
    run_server(lambda: create_app(chosen), chosen, "worker")
