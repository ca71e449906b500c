"""Addresses at which there is no Ray cluster are told at once: Ray itself tries for minutes."""

from __future__ import annotations

import socket
import threading

import pytest

from fake_ray import installed
from secateur.errors import UsageError
from secateur.study.executors import cluster as clusters
from secateur.study.executors.cluster import Cluster


@pytest.fixture(autouse=True)
def _unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that has no way to connect: nobody may ask it to."""
    monkeypatch.setattr(installed(monkeypatch), "is_initialized", lambda: False)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "names no Ray cluster; give HOST:PORT"),
        ("127.0.0.1:1", r"nobody answers at --address 127\.0\.0\.1:1"),
        ("ray://127.0.0.1:10001", "is of Ray's client; run the study on a node"),
    ],
)
def test_a_wrong_address_is_said_at_once(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=said):
        Cluster(address).__enter__()


@pytest.mark.parametrize(
    ("answer", "is_ray"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"", False),  # and hangs up
        (None, False),  # and says nothing
        (bytes(3) + b"\4" + bytes(5), True),  # the settings of HTTP/2, which gRPC begins with
    ],
)
def test_what_listens_and_is_no_cluster_is_told_before_ray_tries_for_minutes(
    answer: bytes | None, is_ray: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "_REACH", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", here)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                if answer:
                    connection.sendall(answer)
                if answer is None or is_ray:
                    connection.recv(100)
                    ended.wait(10)

        ended = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if is_ray:
                clusters._reach(here)
            else:
                with pytest.raises(UsageError, match=rf"at RAY_ADDRESS {here} is no Ray cluster"):
                    Cluster().__enter__()
        finally:
            ended.set()
            thread.join()
