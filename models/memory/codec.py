"""Versioned bytes of a state: header, ring columns, tile columns, checksum.

Layout of version 1, little-endian: `b"EBB"`, version `u8`, digest of the `StateSpec` (8 bytes),
number of ring records `u16`, number of tiles `u32`, the records, the tiles, CRC-32 of all before.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from models.events import INTERACTION
from models.memory.spec import StateSpec
from models.memory.state import State
from models.memory.tiles import TILE

VERSION = 1
_MAGIC = b"EBB"
_HEADER = struct.Struct("<3sB8sHI")
_CHECK = struct.Struct("<I")


def encode(state: State, spec: StateSpec) -> bytes:
    """The one byte string of a state: equal states have equal bytes."""
    digest = bytes.fromhex(spec.digest())
    header = _HEADER.pack(_MAGIC, VERSION, digest, len(state.ring), len(state.tiles))
    body = header + state.ring.tobytes() + state.tiles.tobytes()
    return body + _CHECK.pack(zlib.crc32(body))


def decode(blob: bytes | memoryview, spec: StateSpec) -> State:
    """The state behind `encode`'s bytes.

    Raises:
        ValueError: for bytes that are damaged, of an unknown version, or of another spec.
    """
    blob = bytes(blob)
    if len(blob) < _HEADER.size + _CHECK.size or not blob.startswith(_MAGIC):
        raise ValueError(f"not a memory state: {len(blob)} bytes beginning {blob[:4]!r}")
    _, version, digest, num_ring, num_tiles = _HEADER.unpack_from(blob)
    if version != VERSION:
        raise ValueError(
            f"memory state of version {version}; this release reads version {VERSION}. "
            "Rebuild the memory from its events, or run the release that wrote it."
        )
    body, check = blob[: -_CHECK.size], _CHECK.unpack(blob[-_CHECK.size :])[0]
    size = _HEADER.size + num_ring * INTERACTION.itemsize + num_tiles * TILE.itemsize
    if len(body) != size or zlib.crc32(body) != check:
        raise ValueError("memory state is damaged: its length or checksum does not fit")
    if digest.hex() != spec.digest():
        raise ValueError(
            f"memory state was kept under spec {digest.hex()}, not {spec.digest()}. "
            "Rebuild the memory with `python -m jobs.prepare`, or restore the old spec."
        )
    ring = np.frombuffer(body, INTERACTION, num_ring, _HEADER.size)
    offset = _HEADER.size + ring.nbytes
    return State(ring, np.frombuffer(body, TILE, num_tiles, offset))
