from orlop.base.memo import SPARE, Memo


def test_a_value_is_made_once_for_the_same_object_and_anew_for_an_equal_one():
    made = []

    def make(source: list[int]) -> int:
        made.append(source)
        return len(made)

    memo = Memo(make, lambda _: True)
    first = [1]
    assert [memo.of("a", first), memo.of("a", first), memo.of("b", first)] == [1, 1, 2]
    assert memo.of("a", [1]) == 3
    assert len(made) == 3


def test_what_is_gone_is_forgotten_and_what_lives_is_kept():
    alive = {"0", "1"}
    memo = Memo(lambda source: source, alive.__contains__)
    kept = object()
    memo.of("0", kept)
    for number in range(1, 10 * SPARE):
        memo.of(str(number), object())
    assert len(memo) <= 2 * len(alive) + SPARE
    made = []
    again = Memo(made.append, lambda _: True)
    again.of("0", kept)
    again.of("0", kept)
    assert made == [kept]
