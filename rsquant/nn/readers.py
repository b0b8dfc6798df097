"""Who reads the result of an operation of a traced network."""

from __future__ import annotations

from typing import Self


class Read:
    """An operation of any graph: `users` are those who read its result, once per reading."""

    users: list[Self]

    @property
    def only_user(self) -> Self | None:
        """Who reads the result, if it is one, and once."""
        return self.users[0] if len(self.users) == 1 else None
