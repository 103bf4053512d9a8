from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from cloudflux.local.errors import PortInUse, StackError
from cloudflux.local.ports import (
    LOOPBACK,
    USUAL_PORTS,
    choose_ports,
    free_ports,
    is_free,
    require_free,
)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_every_service_gets_its_usual_port_when_nothing_is_set() -> None:
    assert choose_ports("usual", {}) == dict(USUAL_PORTS)


def test_a_setting_moves_a_port_when_it_is_in_the_environment() -> None:
    assert choose_ports("usual", {"CLOUDFLUX_AIRFLOW_PORT": "18080"})["airflow"] == 18080


def test_an_option_wins_when_a_setting_names_another_port() -> None:
    chosen = choose_ports("usual", {"CLOUDFLUX_AIRFLOW_PORT": "18080"}, explicit={"airflow": 18081})
    assert chosen["airflow"] == 18081


@pytest.mark.parametrize("text", ["", "80a", "0", "65536", "-1"])
def test_the_setting_is_named_when_it_is_no_port(text: str) -> None:
    with pytest.raises(StackError, match="CLOUDFLUX_KAFKA_PORT"):
        choose_ports("usual", {"CLOUDFLUX_KAFKA_PORT": text})


def test_both_services_are_named_when_they_are_given_one_port() -> None:
    with pytest.raises(StackError, match="airflow and mlflow"):
        choose_ports("usual", {}, explicit={"airflow": 7000, "mlflow": 7000})


def test_all_ports_differ_when_a_setting_takes_the_usual_port_of_another_service() -> None:
    chosen = choose_ports("usual", {}, explicit={"mlflow": USUAL_PORTS["airflow"]})
    assert len(set(chosen.values())) == len(USUAL_PORTS)


def test_remembered_ports_stay_when_ports_are_free_to_choose() -> None:
    assert choose_ports("free", {}, remembered={"airflow": 23456})["airflow"] == 23456


def test_no_usual_port_is_taken_when_only_free_ones_are_wanted() -> None:
    chosen = choose_ports("free", {})
    assert not set(chosen.values()) & set(USUAL_PORTS.values())
    assert len(set(chosen.values())) == len(USUAL_PORTS)


def test_the_holder_and_the_ways_out_are_named_when_a_port_is_taken(taken_port: int) -> None:
    with pytest.raises(PortInUse) as raised:
        require_free({"airflow": taken_port}, ["airflow"])
    for part in (str(taken_port), f"pid {os.getpid()}", "--port airflow=N", "CLOUDFLUX_AIRFLOW_PORT", "--free-ports"):
        assert part in str(raised.value)


def test_a_port_is_not_free_when_a_server_listens(taken_port: int) -> None:
    assert not is_free(taken_port)


def test_free_ports_are_different_when_several_are_asked_for() -> None:
    assert len(set(free_ports(20))) == 20
