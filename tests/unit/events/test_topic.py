from __future__ import annotations

import gc
import logging
import threading

import pytest

from cloudflux.domain.errors import SettingsError


def test_nothing_stays_of_an_admin_client_when_no_broker_answers() -> None:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    from cloudflux.events.topic import made_or_closed

    threads = set(threading.enumerate())
    with pytest.raises(KafkaError):
        made_or_closed(KafkaAdminClient, bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=300)
    assert set(threading.enumerate()) <= threads


def test_error_says_where_and_no_thread_stays_when_no_broker_answers(caplog: pytest.LogCaptureFixture) -> None:
    from cloudflux.events.topic import BrokerUnreachable, TopicReader

    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep the sockets until after this test
    threads = set(threading.enumerate())
    with pytest.raises(BrokerUnreachable, match=r"Kafka at 127\.0\.0\.1:1 does not answer.*KAFKA_BOOTSTRAP_SERVERS"):
        TopicReader("127.0.0.1:1", "files", {"bootstrap_timeout_ms": 300})
    assert set(threading.enumerate()) <= threads
    gc.collect()


@pytest.mark.parametrize("servers", ["", "broker", "broker:port", "broker:9092,", ":9092"])
def test_setting_is_named_when_it_is_no_list_of_brokers(servers: str) -> None:
    from cloudflux.events.lag import lag

    with pytest.raises(SettingsError, match=rf"KAFKA_BOOTSTRAP_SERVERS is {servers!r}.* write host:port"):
        lag(servers, "files", {})
