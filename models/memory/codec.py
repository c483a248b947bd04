"""Versioned bytes of a state: header, rings, tiles, facts, checksum.

Layout of version 2, little-endian: `b"EBB"`, version `u8`, digest of the `StateSpec` (8 bytes),
the three rings and the tiles, the facts, CRC-32 of all before. An array is its length `u32`, a bit
per byte of a record, set where that byte differs between records, the bytes that do not, and then
the others, byte by byte for all records. Sorted times and small counts have many bytes that never
differ; nothing else is squeezed, so the bytes are the same on every machine and with every library.

Version 1 had the ring and the tiles only, as they lie in memory: such states are still read.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

import models.memory.facts as facts
import models.memory.ring as ring
from models.events import INTERACTION
from models.memory.spec import StateSpec
from models.memory.state import State
from models.memory.tiles import TILE

VERSION = 2
_MAGIC = b"EBB"
_HEADER = struct.Struct("<3sB8s")
_LENGTH = struct.Struct("<I")
_LENGTHS_V1 = struct.Struct("<HI")
_CHECK = struct.Struct("<I")


def encode(state: State, spec: StateSpec) -> bytes:
    """The one byte string of a state: equal states have equal bytes."""
    arrays = (state.ring, state.shown, state.refused, state.tiles)
    body = b"".join([header(spec), *map(_pack, arrays), facts.to_bytes(state.facts)])
    return body + _CHECK.pack(zlib.crc32(body))


def header(spec: StateSpec) -> bytes:
    """What the bytes of every state kept under a spec begin with."""
    return _HEADER.pack(_MAGIC, VERSION, bytes.fromhex(spec.digest()))


def decode(blob: bytes | memoryview, spec: StateSpec) -> State:
    """The state behind the bytes of `encode`, of this version or an older one.

    Raises:
        ValueError: for bytes that are damaged, of an unknown version, or of another spec.
    """
    blob = bytes(blob)
    if len(blob) < _HEADER.size + _CHECK.size or not blob.startswith(_MAGIC):
        raise ValueError(f"not a memory state: {len(blob)} bytes beginning {blob[:4]!r}")
    _, version, digest = _HEADER.unpack_from(blob)
    if version not in _READERS:
        raise ValueError(
            f"memory state of version {version}; this release reads version 1 to {VERSION}. "
            "Rebuild the memory from its events, or run the release that wrote it."
        )
    body = blob[: -_CHECK.size]
    if zlib.crc32(body) != _CHECK.unpack(blob[-_CHECK.size :])[0]:
        raise ValueError("memory state is damaged: its checksum does not fit")
    if digest.hex() != spec.digest():
        raise ValueError(
            f"memory state was kept under spec {digest.hex()}, not {spec.digest()}. "
            "Rebuild the memory with `python -m jobs.prepare`, or restore the old spec."
        )
    try:
        return _READERS[version](body)
    except (ValueError, struct.error) as error:
        raise ValueError(f"memory state is damaged: {error}") from error


def _read_v1(body: bytes) -> State:
    num_ring, num_tiles = _LENGTHS_V1.unpack_from(body, _HEADER.size)
    place = _HEADER.size + _LENGTHS_V1.size
    end = place + num_ring * INTERACTION.itemsize
    if len(body) != end + num_tiles * TILE.itemsize:
        raise ValueError(f"{len(body)} bytes for {num_ring} events and {num_tiles} tiles")
    kept = np.frombuffer(body, INTERACTION, num_ring, place)
    return State(kept, ring.empty(), ring.empty(), np.frombuffer(body, TILE, num_tiles, end))


def _read_v2(body: bytes) -> State:
    kept, place = _unpack(body, _HEADER.size, INTERACTION)
    shown, place = _unpack(body, place, INTERACTION)
    refused, place = _unpack(body, place, INTERACTION)
    counted, place = _unpack(body, place, TILE)
    return State(kept, shown, refused, counted, facts.from_bytes(body[place:]))


_READERS = {1: _read_v1, 2: _read_v2}


def _pack(array: NDArray[np.void]) -> bytes:
    num = len(array)
    if not num:
        return _LENGTH.pack(0)
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(num, -1)
    columns = np.ascontiguousarray(rows.T)
    differs = np.bitwise_or.reduce(columns ^ columns[:, :1], axis=1) != 0
    return b"".join(
        (
            _LENGTH.pack(num),
            np.packbits(differs).tobytes(),
            columns[~differs, 0].tobytes(),
            columns[differs].tobytes(),
        )
    )


def _unpack(body: bytes, place: int, dtype: np.dtype[Any]) -> tuple[NDArray[np.void], int]:
    """The array that begins at `place`, and where it ends."""
    (num,) = _LENGTH.unpack_from(body, place)
    place += _LENGTH.size
    if not num:
        return np.zeros(0, dtype), place
    width = dtype.itemsize
    bits = np.frombuffer(body, np.uint8, -(-width // 8), place)
    bits_of = np.unpackbits(bits, count=width)
    differs = bits_of.nonzero()[0]
    place += len(bits)
    first = np.zeros(width, np.uint8)
    first[bits_of == 0] = np.frombuffer(body, np.uint8, width - len(differs), place)
    place += width - len(differs)
    other = np.frombuffer(body, np.uint8, len(differs) * num, place)
    columns = np.empty((num, width), np.uint8)
    columns[:] = first
    columns[:, differs] = other.reshape(-1, num).T
    return columns.reshape(-1).view(dtype), place + len(other)
