"""What is forgotten, and what stays."""

from rsquant.runtime.recent import Recent


def test_the_item_unused_for_longest_is_forgotten():
    recent = Recent(2, kept=lambda key: False)
    for key in "ab":
        recent.put(key, key.upper())
    assert recent.get("a") == "A"
    recent.put("c", "C")
    assert [recent.get(key) for key in "abc"] == ["A", None, "C"]


def test_kept_items_stay_and_do_not_count():
    recent = Recent(1, kept=str.isupper)
    for key in "AxBy":
        recent.put(key, key)
    assert [recent.get(key) for key in "AxBy"] == ["A", None, "B", "y"]
    assert len(recent) == 3


def test_dropped_items_are_gone_kept_or_not():
    recent = Recent(2, kept=str.isupper)
    for key in "AxBy":
        recent.put(key, key)
    recent.drop(lambda key: key in "Ay")
    assert [recent.get(key) for key in "AxBy"] == [None, "x", "B", None]


def test_nothing_stays_where_nothing_may():
    recent = Recent(0, kept=lambda key: False)
    recent.put("a", 1)
    assert recent.get("a") is None
