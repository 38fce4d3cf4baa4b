"""Damaged and odd files from good ones: bytes, lines and fields, JSON trees, safetensors headers, state dicts.

Every function takes the good content and a ``random.Random``, and gives bytes. The same generator gives the same bytes.
"""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Mutation = Callable[[bytes, random.Random], bytes]

TOKENS = ("", "0", "1", "-1", "2", "00", "01", "1.0", "+1", "1_0", "nan", "-inf", "1e999", "1e-320", "0x1", "9" * 30)
TOKENS += (
    "٣",
    "１",
    "²",
    "true",
    "None",
    "null",
    "../x.jpg",
    "/dev/null",
    "a.jpg",
    "b.jpg",
    "é",
    "🙂",
    "\ufeff",
    "\u2028",
)
TOKENS += ("%s", "{0}", '"', '""', "'", "\\", "..", ".", "#", ";", ",", "\x00", "\x1a", "a" * 300, "a" * 5000)
SEPARATORS = (" ", "  ", "\t", ",", ";", ", ", "\u00a0", "\x0b")
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, 2**31, 2**63, 10**9, 10**30, -(10**30), 1e308, float("nan"), float("inf")),
    *("", "x", "nan", "0", "../x", "/etc/hostname", "hf-hub:owner/name", "local-dir:..", "\x00", "a" * 2000, "é🙂"),
    *([], {}, [[]], [1, 2, 3], [None], [float("nan")] * 3, {"x": 1}, {"": {}}, [[[[[[1]]]]]], ["a"] * 50),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bits, bytes or slices are changed, cut, doubled or moved."""
    buffer = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        rng.choice(_BYTE_STEPS)(buffer, rng)
    return bytes(buffer)


def _place(buffer: bytearray, rng: random.Random) -> int:
    # Headers stand in front, and are what most decisions are taken from.
    return rng.randrange(min(len(buffer), rng.choice((16, 64, 512, 1 << 30)))) if buffer else 0


def _flip_bit(buffer: bytearray, rng: random.Random) -> None:
    if buffer:
        buffer[_place(buffer, rng)] ^= 1 << rng.randrange(8)


def _set_byte(buffer: bytearray, rng: random.Random) -> None:
    if buffer:
        buffer[_place(buffer, rng)] = rng.choice(
            (0, 1, 9, 10, 13, 32, 34, 44, 48, 92, 127, 128, 255, rng.randrange(256))
        )


def _set_number(buffer: bytearray, rng: random.Random) -> None:
    kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    place, size = _place(buffer, rng), struct.calcsize(kind)
    buffer[place : place + size] = struct.pack(kind, rng.choice(NUMBERS) % 256**size)


def _delete(buffer: bytearray, rng: random.Random) -> None:
    place = _place(buffer, rng)
    del buffer[place : place + rng.choice((1, 2, 8, 64, 1000))]


def _double(buffer: bytearray, rng: random.Random) -> None:
    place = _place(buffer, rng)
    buffer[place:place] = buffer[place : place + rng.choice((1, 2, 8, 64, 1000))] * rng.choice((1, 1, 2, 9))


def _insert(buffer: bytearray, rng: random.Random) -> None:
    place = _place(buffer, rng)
    buffer[place:place] = rng.randbytes(rng.choice((1, 2, 4, 32)))


def _cut(buffer: bytearray, rng: random.Random) -> None:
    del buffer[rng.randrange(len(buffer) + 1) :]


def _zero_tail(buffer: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(buffer) + 1)
    buffer[place:] = bytes(len(buffer) - place)


def _move(buffer: bytearray, rng: random.Random) -> None:
    place, size = _place(buffer, rng), rng.choice((1, 4, 32))
    part = buffer[place : place + size]
    del buffer[place : place + size]
    place = _place(buffer, rng)
    buffer[place:place] = part


_BYTE_STEPS = (_flip_bit, _set_byte, _set_byte, _set_number, _delete, _double, _insert, _cut, _zero_tail, _move)


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Lines and fields of a text are deleted, doubled, swapped, replaced; encodings and line ends change."""
    lines = data.decode("utf-8").split("\n")
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(lines)) if lines else 0
        step = rng.randrange(10)
        if not lines or step == 0:
            lines.insert(place, rng.choice(("", " ", "\t", *TOKENS, "x y z w v")))
        elif step == 1:
            del lines[place]
        elif step == 2:
            lines.insert(rng.randrange(len(lines) + 1), lines[place])
        elif step == 3:
            other = rng.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        elif step == 4:
            lines[place : place + 2] = [rng.choice(SEPARATORS).join(lines[place : place + 2])]
        else:
            lines[place] = _changed_fields(lines[place], rng)
    text = rng.choice(("\n",) * 8 + ("\r\n", "\r", "\n\n", "\x0c")).join(lines)
    encoding = rng.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"))
    encoded = text.encode(encoding, errors="replace")
    return mutate_bytes(encoded, rng) if rng.random() < 0.1 else encoded


def _changed_fields(line: str, rng: random.Random) -> str:
    separator = "," if "," in line and rng.random() < 0.8 else " "
    fields = line.split(separator)
    place, step = rng.randrange(len(fields)), rng.randrange(6)
    if step < 3:
        fields[place] = rng.choice(TOKENS)
    elif step == 3:
        fields.insert(place, rng.choice((*TOKENS, fields[place])))
    elif step == 4:
        del fields[place]
    else:
        separator = rng.choice(SEPARATORS)
    return separator.join(fields)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Values of a JSON tree are replaced by odd ones, deleted, renamed, swapped; texts that are JSON themselves, too."""
    if rng.random() < 0.02:
        return rng.choice(
            (
                b"[" * 200_000,
                b'{"a":' * 50_000,
                b"",
                b"null",
                b"[]",
                b"{}",
                b'"x"',
                b"1" * 10_000,
                b"\xff\xfe{\x00}\x00",
            )
        )
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _changed_tree(tree, rng)
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    encoded = text.encode(rng.choice(("utf-8",) * 20 + ("utf-8-sig", "utf-16")), errors="replace")
    return mutate_bytes(encoded, rng) if rng.random() < 0.1 else encoded


def _changed_tree(tree: Any, rng: random.Random) -> Any:
    """``tree`` with one value changed, at a place drawn level by level."""
    if isinstance(tree, str) and tree[:1] in "{[" and rng.random() < 0.7:
        try:
            return json.dumps(_changed_tree(json.loads(tree), rng))
        except ValueError:
            return rng.choice(ODD_VALUES)
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.1:
        return rng.choice(ODD_VALUES)
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key, step = rng.choice(keys), rng.random()
    if step < 0.7:
        tree[key] = _changed_tree(tree[key], rng)
    elif step < 0.8:
        del tree[key]
    elif step < 0.9:
        other = rng.choice(keys)
        tree[key], tree[other] = tree[other], tree[key]
    elif isinstance(tree, dict):
        tree[rng.choice((f"{key}_", f"{key}".upper(), "", "x", "__class__", "name", "x" * 2000))] = tree.pop(key)
    else:
        tree.insert(key, rng.choice(ODD_VALUES))
    return tree


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header is changed as a JSON tree, with a length that fits again; sometimes single bytes instead."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    length = struct.unpack("<Q", data[:8])[0]
    header = mutate_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutate_metadata(data: bytes, rng: random.Random) -> bytes:
    """Of a safetensors file the texts of the header's ``__metadata__`` only; the tensors stay what they are."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = rng.choice(list(header["__metadata__"]))
    value = header["__metadata__"][name]
    content = mutate_json(value.encode(), rng) if value[:1] in "{[" and value else mutate_lines(value.encode(), rng)
    header["__metadata__"][name] = content.decode("utf-8", errors="replace")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def mutate_state_dict(data: bytes, rng: random.Random) -> bytes:
    """A PyTorch file whose tensors, names and nesting are changed; sometimes its bytes instead."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = dict(torch.load(io.BytesIO(data), weights_only=True))
        for _ in range(rng.choice((1, 1, 2))):
            name, step = rng.choice(list(state)), rng.random()
            if step < 0.6:
                state[name] = _odd_tensor(state[name], rng)
            elif step < 0.7:
                del state[name]
            else:
                prefix = rng.choice(("module.", "_orig_mod.", "model.", "backbone.", "x.", "module.module.", "net."))
                text = str(name)
                state[rng.choice((prefix + text, text.upper(), "", 3, None, text + " ", text + "x" * 2000))] = (
                    state.pop(name)
                )
            if not state:
                break
        content: Any = state
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            content = {rng.choice(("state_dict", "model", "state_dict_ema", "net", "ema", "epoch", "x")): content}
        if rng.random() < 0.05:
            content = rng.choice((None, 3, [], {}, [content], "text", torch.zeros(2), {"state_dict": None}))
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    return file.getvalue()


def _odd_tensor(tensor: Any, rng: random.Random) -> Any:
    if (
        not isinstance(tensor, Tensor)
        or tensor.is_sparse
        or tensor.is_quantized
        or tensor.is_meta
        or not 0 < tensor.numel() < 1 << 20
    ):
        return rng.choice(ODD_VALUES)
    value = tensor.float() if not tensor.is_complex() else tensor.real.float()
    step = rng.randrange(15)
    if step < 7:
        dtypes = (
            torch.int8,
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.complex64,
            torch.bool,
            torch.float8_e4m3fn,
        )
        return value.to(dtypes[step])
    if step == 7:
        return value.to_sparse()
    if step == 8:
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)
    if step == 9:
        return value.to("meta")
    if step == 10:
        return torch.full_like(value, rng.choice((float("nan"), float("inf"), 1e38)))
    if step == 11:
        return value.double() * 1e300
    if step == 12:
        return torch.zeros(1).expand(rng.choice(((1 << 34,), (1 << 20, 1 << 20), (*value.shape, 2))))
    if step == 13:
        return value.flatten()[: rng.randrange(value.numel())]
    return rng.choice(ODD_VALUES)
