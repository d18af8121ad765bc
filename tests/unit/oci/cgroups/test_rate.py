from hypothesis import given
from hypothesis import strategies as st

from orlop.oci.cgroups.rate import CpuRates, usage_nano_cores

SECOND = 1_000_000_000


def test_a_rate_needs_two_readings() -> None:
    rates = CpuRates()
    assert rates.rate("a", 0, 0) is None
    assert rates.rate("a", 10 * SECOND, 5 * SECOND) == SECOND // 2
    assert rates.rate("b", 10 * SECOND, 5 * SECOND) is None


def test_a_counter_that_went_back_starts_anew() -> None:
    rates = CpuRates()
    rates.rate("a", 0, 100)
    assert rates.rate("a", SECOND, 50) is None
    assert rates.rate("a", 2 * SECOND, 50 + SECOND) == SECOND


def test_readings_at_short_distance_are_measured_over_a_window() -> None:
    rates = CpuRates()
    for step in range(100):
        rates.rate("a", step * SECOND // 10, step * SECOND // 10)
    # A burst in the last moment is averaged over the window, not over a tenth of a second.
    rate = rates.rate("a", 10 * SECOND, 10 * SECOND + SECOND // 2)
    assert rate is not None
    assert SECOND < rate <= SECOND * 3 // 2


def test_forget() -> None:
    rates = CpuRates()
    rates.rate("a", 0, 0)
    rates.forget("a")
    rates.forget("a")
    assert rates.rate("a", SECOND, SECOND) is None


def test_old_readings_are_dropped() -> None:
    rates = CpuRates()
    rates.rate("a", 0, 0)
    assert rates.rate("a", 121 * SECOND, SECOND) is None


@given(st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(0, 10 * SECOND)), min_size=2))
def test_a_rate_is_never_negative(steps: list[tuple[int, int]]) -> None:
    rates, timestamp, usage = CpuRates(), 0, 0
    for elapsed, used in steps:
        timestamp, usage = timestamp + elapsed, usage + used
        rate = rates.rate("a", timestamp, usage)
        assert rate is None or rate >= 0


def test_pure() -> None:
    assert usage_nano_cores((0, 0), (0, 1)) is None
    assert usage_nano_cores((0, 1), (1, 0)) is None
    assert usage_nano_cores((0, 0), (2 * SECOND, SECOND)) == SECOND // 2
