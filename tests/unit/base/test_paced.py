from orlop.base.paced import REST, Paced


def test_a_figure_is_old_after_the_least_time_or_after_a_multiple_of_its_cost():
    paced: Paced[str] = Paced(least=100)
    assert paced.fresh("a", 0) is None
    paced.put("a", "cheap", 1000, 1)
    paced.put("b", "dear", 1000, 50)
    assert paced.fresh("a", 1100).value == "cheap"
    assert paced.fresh("a", 1101) is None
    assert paced.fresh("b", 1000 + 50 * REST).value == "dear"
    assert paced.fresh("b", 1001 + 50 * REST) is None
    assert paced.fresh("b", 999) is None
    paced.forget("a")
    paced.forget("nobody")
    assert len(paced) == 1
