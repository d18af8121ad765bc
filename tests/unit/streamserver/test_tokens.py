"""Tokens: once, in time, and not too many."""

from __future__ import annotations

import pytest

from orlop.base import limits
from orlop.base.errors import ResourceExhausted
from orlop.streamserver.tokens import Tokens


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_good_once():
    tokens: Tokens[str] = Tokens()
    token = tokens.issue("exec")
    assert len(token) == 32
    assert tokens.redeem(token) == "exec"
    assert tokens.redeem(token) is None


@pytest.mark.parametrize("guess", ["", "x", "x" * 100_000, "\udcff", "../../etc"])
def test_a_guess_opens_nothing(guess):
    tokens: Tokens[str] = Tokens()
    tokens.issue("exec")
    assert tokens.redeem(guess) is None
    assert len(tokens) == 1


def test_a_token_is_good_for_a_minute():
    clock = Clock()
    tokens: Tokens[str] = Tokens(clock)
    early, late = tokens.issue("early"), tokens.issue("late")
    clock.now = limits.STREAM_TOKEN_SECONDS - 0.001
    assert tokens.redeem(early) == "early"
    clock.now = limits.STREAM_TOKEN_SECONDS
    assert tokens.redeem(late) is None
    assert len(tokens) == 0


def test_only_so_many_wait():
    clock = Clock()
    tokens: Tokens[int] = Tokens(clock)
    first = tokens.issue(0)
    for number in range(1, limits.STREAM_TOKENS):
        tokens.issue(number)
    with pytest.raises(ResourceExhausted, match="streaming: 1000 sessions"):
        tokens.issue(-1)
    assert tokens.redeem(first) == 0
    tokens.issue(-1)
    clock.now = limits.STREAM_TOKEN_SECONDS
    tokens.issue(-2)
    assert len(tokens) == 1
