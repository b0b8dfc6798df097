"""YAML from others is read within limits, or refused in one line; never a raw error."""

import pytest

from rsquant import yaml_file
from rsquant.errors import ConfigError
from rsquant.train.configuration import compose
from rsquant.yaml_file import MAX_BYTES, MAX_DEPTH, read_yaml

# Ten levels of ten: 10^10 values in 400 bytes.
LAUGHS = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + chr(ord(name) - 1)] * 10)}]\n" for name in "bcdefghij"
)


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text,message",
    [
        (LAUGHS, r"aliases \(\*name\) are not supported"),
        ("a: &a {b: 1}\nc: {<<: [*a, *a]}", "aliases"),
        ("&a [*a]", "aliases"),
        ("[" * 60_000, f"is nested more than {MAX_DEPTH} deep"),
        ("- " * 30_000, "is nested more than"),
        ("? " * 30_000, "is nested more than"),
        ("{a: " * 9, "is nested more than"),
        ("#" * (MAX_BYTES + 1), "has more than 65,536 bytes"),
        ("train: {lr: 1, lr: 2}", "the key 'lr' occurs twice .line 1"),
        ("train: {lr: 1}\ntrain: {epochs: 2}", "the key 'train' occurs twice .line 2"),
        (b"\xff\xfeq", "codec can't decode"),
        (b"a: \xe9", "codec can't decode"),
        ("\0", "special characters are not allowed"),
        ("!!int ''", "a value does not match its tag"),
        ("!!bool maybe", "a value does not match its tag"),
        ("!!timestamp x", "a value does not match its tag"),
        ("2026-13-45", "month must be in 1..12"),
        ("? {a: b}\n: c", "unhashable key"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("--- a\n--- b", "expected a single document"),
        (f"{'9' * 5000}", "Exceeds the limit"),
    ],
)
def test_what_is_not_plain_settings_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=f"c.yaml: .*{message}") as error:
        read_yaml(write(tmp_path, text))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "train: {lr: " + ":".join(["1"] * 2000) + "}",  # a whole number to the base of 60
        f"train: {{epochs: 0x{'f' * 9000}}}",
        f"0x{'f' * 99}: 1",
        f"? 0x{'f' * 900}\n: 1",
        f"train: [{'1, ' * 3000}]",
        f"{'[1], ' * 900}".join("[]"),
        f"train: {{{'k' * 100}: 1}}",
        f"? {'k' * 9000}\n: 1",
        f"train: {{device: [{'x' * 9000}]}}",
        'train: {device: "\\x1b[31m\\n", lr: x}',
    ],
)
def test_long_values_make_no_long_messages(tmp_path, text):
    with pytest.raises(ConfigError) as error:
        compose(write(tmp_path, text), {})
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()


def test_depth_and_size_at_their_limits_are_read(tmp_path):
    depth = MAX_DEPTH - 1
    value = read_yaml(write(tmp_path, "[" * depth + "x" + "]" * depth))
    for _ in range(depth):
        (value,) = value
    assert value == "x"
    assert read_yaml(write(tmp_path, b"\xef\xbb\xbf" + b"a: 1\n".ljust(MAX_BYTES - 3))) == {"a": 1}
    assert read_yaml(write(tmp_path, "a: [1, 2]\nb: {<<: {c: 3}}")) == {"a": [1, 2], "b": {"c": 3}}


def test_no_more_is_read_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_file, "MAX_BYTES", 10)
    with pytest.raises(ConfigError, match="has more than 10 bytes"):
        read_yaml(write(tmp_path, "a: 1234567890"))
