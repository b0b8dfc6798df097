"""A table that forgets what was not used for long, but for what it was told to keep."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")


class Recent(Generic[Key, Item]):
    """What was used last, by key; safe to use from several threads.

    Args:
        most: how many items stay besides the kept ones; one more while it is in use.
        kept: whether a key's item always stays.
    """

    def __init__(self, most: int, kept: Callable[[Key], bool]) -> None:
        self._most, self._is_kept = most, kept
        self._kept: dict[Key, Item] = {}
        self._others: OrderedDict[Key, Item] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Item | None:
        """The key's item, which is now the one used last; None where there is none."""
        item = self._kept.get(key)
        if item is not None:
            return item
        with self._lock:
            item = self._others.get(key)
            if item is not None:
                self._others.move_to_end(key)
            return item

    def put(self, key: Key, item: Item) -> None:
        """Add an item; where there are too many, forget the one unused for longest."""
        with self._lock:
            if self._is_kept(key):
                self._kept[key] = item
                return
            self._others[key] = item
            while len(self._others) > self._most:
                self._others.popitem(last=False)

    def drop(self, wanted: Callable[[Key], bool]) -> None:
        """Forget the items, kept ones too, whose keys are wanted gone."""
        with self._lock:
            for items in (self._kept, self._others):
                for key in [key for key in items if wanted(key)]:
                    del items[key]

    def __len__(self) -> int:
        return len(self._kept) + len(self._others)
