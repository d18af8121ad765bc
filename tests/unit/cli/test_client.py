"""Errors in words: which UNAVAILABLE means that no daemon answers."""

import grpc
import pytest

from orlop.base.errors import Unavailable
from orlop.cli.client import Client, in_words
from orlop.specs.cri_gen import api_pb2 as cri


class Failure(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


def test_nobody_listens(tmp_path):
    with Client(f"unix://{tmp_path}/none.sock") as client, pytest.raises(Unavailable, match="no orlopd answers at"):
        client.runtime.Version(cri.VersionRequest(), timeout=10)


def test_a_registry_that_is_down_is_not_the_daemon():
    said = "image x: registry 127.0.0.1:1: cannot connect: connection refused"
    error = in_words(Failure(grpc.StatusCode.UNAVAILABLE, said), "unix:///run/x")
    assert isinstance(error, Unavailable) and str(error) == said
