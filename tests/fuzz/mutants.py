"""Structured mutants: one file altered in the words of its own format, or in its bytes."""

import copy
import json

# What no reader expects: other types, ends of ranges, text that is long or that terminals obey.
ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    255,
    65_537,
    2**31,
    2**53 + 1,
    2**70,
    -(2**63),
    10**400,
    0.0,
    -0.5,
    1.5,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "0",
    "1e9",
    "x" * 5000,
    "\n\x1b[31m",
    "\u202e",
    "[/red]",
    "../../etc/passwd",
    "\0",
    [],
    {},
    [[]],
    [None],
    {"": 0},
    [1] * 300,
    {"a": {"b": {"c": []}}},
    "custom",
    "resnet101",
    "torchvision:nothing",
)


def _place(tree, rng):
    """A path of keys and indexes. A field of few has the chance of one of many, however large."""
    path, value = ("root",), tree["root"]
    if isinstance(value, dict) and value and rng.random() < 0.95:
        step = _any(rng, list(value))
        path, value = ("root", step), value[step]
    while isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        step = _any(rng, list(value) if isinstance(value, dict) else range(len(value)))
        path, value = (*path, step), value[step]
    return path


def _at(value, path):
    for step in path:
        value = value[step]
    return value


def _any(rng, values):
    return values[int(rng.integers(0, len(values)))]


def altered_tree(tree, rng):
    """A copy of JSON-like data with one to three places altered."""
    tree = {"root": copy.deepcopy(tree)}
    for _ in range(int(rng.integers(1, 4))):
        path = _place(tree, rng)
        parent, key = _at(tree, path[:-1]), path[-1]
        value, kind = parent[key], int(rng.integers(0, 7))
        if kind == 0 and len(path) > 1:
            del parent[key]
        elif kind == 1:
            parent[key] = copy.deepcopy(_at(tree, _place(tree, rng)))
        elif kind == 2 and isinstance(value, dict):
            value[_any(rng, ("x", "", "\n", "k" * 3000, "epoch", "root"))] = _any(rng, ODD)
        elif kind == 3 and isinstance(value, list) and value:
            value.extend(copy.deepcopy(value))
        elif kind == 4 and isinstance(value, (int, float)) and abs(value) < 2**64:
            parent[key] = value + _any(rng, (-1, 1, 0.5, 10**6))
        elif kind == 5 and isinstance(parent, dict) and len(path) > 1:
            parent[f"{key}{_any(rng, ('x', '.', chr(27)))}"] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(_any(rng, ODD))
    return tree.get("root")


def altered_bytes(data, rng):
    """A copy of bytes: flipped, overwritten, cut, moved or repeated somewhere."""
    new = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not new:
            break
        at, kind = int(rng.integers(0, len(new))), int(rng.integers(0, 6))
        length, other = int(rng.integers(1, 64)), int(rng.integers(0, len(new)))
        if kind == 0:
            new[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            new[at] = int(rng.integers(0, 256))
        elif kind == 2:
            del new[at:]
        elif kind == 3:
            del new[at : at + length]
        elif kind == 4:
            new[at:at] = new[other : other + length]
        else:
            new[at : at + length] = bytes(_any(rng, b'\0\n"{}[],:*&x9-\xff') for _ in range(length))
    return bytes(new)


def altered_tensors(data, rng):
    """A mutant of a safetensors file with JSON under "rsquant" in its metadata."""
    if rng.random() < 0.1:
        return altered_bytes(data, rng)
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), data[end:]
    text = header.pop("__metadata__")["rsquant"]
    kind = rng.random()
    if kind < 0.6:
        fields = json.loads(text)
        new = altered_tree(fields, rng)
        if isinstance(new, dict) and rng.random() < 0.9:  # else nothing behind these is read
            new |= {name: fields[name] for name in ("format", "version")}
        text = json.dumps(new)
    elif kind < 0.65:
        text = altered_bytes(text.encode(), rng).decode(errors="replace")
    elif kind < 0.85:
        header = altered_tree(header, rng)
    else:
        body = altered_bytes(body, rng)
        if rng.random() < 0.8:  # of the right length
            body = body[: len(data) - end].ljust(len(data) - end, b"\x7f")
    if isinstance(header, dict):
        header["__metadata__"] = {"rsquant": text}
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + body
