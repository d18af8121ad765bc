"""The tree of errors, and how a use case names the object of what a part raised."""

import pytest

from orlop.base import errors
from orlop.base.errors import InvalidArgument, NotFound, OrlopError, named


def test_every_class_has_a_code_of_its_own():
    codes = [each.code for each in OrlopError.__subclasses__() if each.__module__ == errors.__name__]
    assert len(set(codes)) == len(codes)
    assert all(code.isupper() for code in codes)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cpu_shares: -1 is too small", "container web: cpu_shares: -1 is too small"),
        ("container web: already said", "container web: already said"),
        ("container 4f2a: by id", "container web: by id"),
        ("sandbox 77: container 4f2a: twice", "container web: container 4f2a: twice"),
        ("container 9999: another one", "container web: container 9999: another one"),
    ],
)
def test_errors_begin_with_the_object(text, shown):
    with pytest.raises(InvalidArgument) as caught, named("container web", "container 4f2a", "sandbox 77"):
        raise InvalidArgument(text)
    assert str(caught.value) == shown


async def test_named_goes_with_async_with_and_touches_no_other_error():
    with pytest.raises(NotFound, match="^pod x: gone$"):
        async with named("pod x"):
            raise NotFound("gone")
    with pytest.raises(ValueError, match="^plain$"), named("pod x"):
        raise ValueError("plain")


def test_diagnostics_tell_the_causes():
    try:
        try:
            raise OSError("below")
        except OSError as cause:
            raise errors.Internal("above") from cause
    except errors.Internal as error:
        assert error.diagnostics() == "above\n  caused by OSError: below"
