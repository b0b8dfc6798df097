"""`--engines`: names of engines, which the shell completes. Here, so that no help imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from rsquant.text import did_you_mean

# As the engines register themselves in `rsquant.bench.engines`; a test compares.
CPU = (
    "torch",
    "ort_float32",
    "ort_int8",
    "ort_codebook",
    "ort_codes_int8",
    "packed",
    "packed_low",
)
CUDA = ("gpu", "cudnn_bf16", "cudnn_fp16", "cudnn_bf16_post", "cudnn_fp16_post")
TRAINING_PEERS = ("lsq", "uniform", "brevitas")
CUDA_LAYERS = ("gpu", "cudnn_bf16", "cudnn_fp16", "int8")


class Engines(click.ParamType):
    """Comma-separated names of engines: torch,packed.

    Args:
        known: names that are taken, whatever the device. others: names that are known elsewhere,
            with what to say of them.
    """

    name = "engines"

    def __init__(self, known: Sequence[str], others: dict[str, str] | None = None) -> None:
        self.known, self.others = tuple(known), others or {}

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name in self.others:
                self.fail(f"'{name}' {self.others[name]}", param, ctx)
            if name not in self.known:
                hint = did_you_mean(name, self.known)
                self.fail(f"unknown '{name}'; {hint}known: {', '.join(self.known)}", param, ctx)
        return names

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        """The names that may follow the last comma, but for those before it."""
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [
            CompletionItem(before + comma + name)
            for name in self.known
            if name.startswith(last) and name not in given
        ]
