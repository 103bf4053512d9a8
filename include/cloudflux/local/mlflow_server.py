"""MLflow's server in one process: `python -m cloudflux.local.mlflow_server --host HOST --port PORT`.

`mlflow server` starts uvicorn as a child and waits for it: a second interpreter with all of MLflow in it, which costs
220 MB and ten seconds of a core at every start. Here the same command serves in its own process.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import mlflow.server
import uvicorn
from mlflow.cli import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM; everything else is read from MLflow's own environment variables."""
    parser = argparse.ArgumentParser(prog="python -m cloudflux.local.mlflow_server", description="MLflow's server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)

    def serve_here(command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
        os.environ.update(extra_env)
        uvicorn.run("mlflow.server.fastapi_app:app", host=options.host, port=options.port, access_log=False)
        sys.exit(0)

    # the one step of `mlflow server` that differs: start the server
    mlflow.server._exec_cmd = serve_here
    cli(["server", "--host", options.host, "--port", str(options.port), "--workers", "1"])


if __name__ == "__main__":
    main()
