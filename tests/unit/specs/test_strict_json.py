"""specs.strict_json: what is no JSON for one of the readers is none for all."""

from __future__ import annotations

import pytest

from orlop.base.errors import InvalidArgument
from orlop.specs.strict_json import read_json


@pytest.mark.parametrize(
    "data", [b'{"a\xed\xbf\xbf": 1}', b'{"a": "\\udfff"}', b'{"a": "\\uD800x"}', '{"a": 1}'.encode("utf-16")]
)
def test_text_that_is_not_utf_8_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="x: not valid JSON"):
        read_json(data, limit=1000, subject="x")


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert read_json(b'{"a": "\\ud83d\\ude00"}', limit=1000, subject="x") == {"a": "\U0001f600"}
