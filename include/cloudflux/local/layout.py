"""Where the stack keeps its files: all of it below one folder, secrets readable by their owner only."""

from __future__ import annotations

import base64
import json
import os
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[3]
"""The top of the repository."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one stack below its folder."""

    root: Path

    @property
    def logs(self) -> Path:
        """Folder of one log file per service."""
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        """Generated passwords and keys, JSON, mode 0600."""
        return self.root / "secrets.json"

    @property
    def state(self) -> Path:
        """Chosen ports, services left out or replaced, JSON, mode 0600."""
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        """Held while the stack starts or stops."""
        return self.root / ".lock"

    @property
    def supervisor_config(self) -> Path:
        """The generated configuration of supervisord, mode 0600."""
        return self.root / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        """Where supervisord writes its process id."""
        return self.root / "supervisord.pid"

    @property
    def postgres(self) -> Path:
        """The PostgreSQL cluster (`data`) and which schema versions it holds (`migrated.json`)."""
        return self.root / "postgres"

    @property
    def airflow(self) -> Path:
        """Airflow's home."""
        return self.root / "airflow"

    @property
    def lake(self) -> Path:
        """The Parquet lake."""
        return self.root / "lake"

    @property
    def estate(self) -> Path:
        """The YAML file that names the buckets."""
        return self.root / "estate.yaml"

    def folder(self, name: str) -> Path:
        """Give a service's own folder."""
        return self.root / name

    def make(self) -> None:
        """Make the folders; others may pass through the top (PostgreSQL's user has to), but list and read nothing."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        for folder in (self.logs, self.airflow, self.lake):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not self.estate.exists():
            self.estate.write_text("# the buckets that CloudFlux looks after: see docs/configuration.md\nbuckets: []\n")


def tools_folder() -> Path:
    """Give the folder of downloaded programs, which all stacks of this clone share."""
    return REPOSITORY / "var" / "tools"


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file at once, readable by its owner only."""
    write_private(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True)
class Secrets:
    """Every generated password and key of one stack."""

    postgres_superuser: str
    postgres_airflow: str
    postgres_mlflow: str
    postgres_cloudflux: str
    airflow_admin: str
    airflow_viewer: str
    airflow_fernet_key: str
    airflow_jwt_secret: str
    airflow_secret_key: str
    azure_account_key: str
    s3_access_key: str
    s3_secret_key: str
    supervisor: str
    kafka_cluster: str


def load_secrets(layout: Layout) -> Secrets:
    """Read the stack's secrets, or generate them at the first start."""
    stored = read_json(layout.secrets)
    names = [field.name for field in fields(Secrets)]
    missing = [name for name in names if name not in stored]
    if missing:
        fresh = _generate()
        stored = {name: stored.get(name, fresh[name]) for name in names}
        write_json(layout.secrets, stored)
    return Secrets(**{name: stored[name] for name in names})


def _generate() -> dict[str, str]:
    generated = {field.name: secrets.token_urlsafe(18) for field in fields(Secrets)}
    generated["airflow_admin"] = secrets.token_urlsafe(9)  # typed by a person: 72 bits are enough
    generated["airflow_viewer"] = secrets.token_urlsafe(9)
    generated["airflow_fernet_key"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    generated["airflow_jwt_secret"] = secrets.token_urlsafe(48)
    generated["azure_account_key"] = base64.b64encode(secrets.token_bytes(64)).decode()
    generated["s3_access_key"] = "CLOUDFLUX" + secrets.token_hex(6).upper()
    # the leading letter keeps Kafka's command line from reading an id that starts with a dash as an option
    generated["kafka_cluster"] = "C" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
    return generated
