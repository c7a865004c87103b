"""nginx with one worker and one static file: what a small answer over HTTP costs at the least."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.peers.process import free_port, listening, program

_CONFIGURATION: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=1000;
  default_type application/ocsp-response;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {folder}/files;
  }}
}}
"""


def installed() -> str | None:
    """Where nginx is, if it is here: Debian keeps it where only root looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def serving(folder: Path, name: str, content: bytes, core: int) -> AsyncIterator[str]:
    """nginx on one processor with this one file, while the block runs; yields the file's URL."""
    binary = installed()
    assert binary is not None
    (folder / "files").mkdir(parents=True)
    (folder / "files" / name).write_bytes(content)
    for at in (folder, folder / "files"):
        at.chmod(0o755)
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder.absolute(), port=port))
    async with program(
        *("taskset", "-c", str(core), binary, "-p", folder, "-c", configuration.absolute()),
        *("-g", "user root;"),
        log=folder / "nginx.log",
    ):
        await listening(port)
        yield f"http://127.0.0.1:{port}/{name}"
