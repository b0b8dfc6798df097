"""What shows how far a training has come: a progress bar, or a test."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows how far training has come."""

    def start(self, phase: str, epoch: int, epochs: int, done: int, total: int) -> None:
        """A phase ("train" or "validate") of an epoch begins; counts are images."""

    def advance(self, images: int, note: str) -> None:
        """Some images are done; `note` says what the loss is."""
