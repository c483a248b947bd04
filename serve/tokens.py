"""Page tokens: the rest of a slate, signed, in the client's keeping.

A token carries the order that the first page began, so pages never overlap or leave a gap, whatever
the user does in between, and a further page costs neither retrieval nor ranking. Nothing is kept
here. Its tag (HMAC-SHA256) binds it to this service's secret, to the release and to the request.

Layout before base64url: version `u8`, rank of the first item `u32`, records of `ROW`, tag 16 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

import numpy as np
import orjson

from serve.problems import Problem
from serve.schemas import SlateRequest
from serve.stages.arrange import ROW, Slate

_HEAD = struct.Struct("<BI")
_VERSION = 1
_TAG_BYTES = 16
_FREE = {"page_token", "page_size", "explain"}
"""Fields that may differ from page to page."""


class PageTokens:
    """Makes and reads tokens of one release."""

    def __init__(self, secret: bytes, release_id: str) -> None:
        self._secret, self._release_id = secret, release_id

    def seal(self, slate: Slate, request: SlateRequest) -> str:
        """A token for what is left of a slate."""
        body = _HEAD.pack(_VERSION, slate.first_rank) + slate.rows.tobytes()
        return _text(body + self._tag(body, request))

    def open(self, token: str, request: SlateRequest) -> Slate:
        """What `seal` was given.

        Raises:
            Problem: when it is altered, of another service or release, or of another request.
        """
        try:
            packed = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            packed = b""
        body, tag = packed[:-_TAG_BYTES], packed[-_TAG_BYTES:]
        # base64 has more than one spelling of some bytes; only ours is a token.
        ours = hmac.compare_digest(tag, self._tag(body, request)) and token == _text(packed)
        if not ours:
            raise Problem(
                400,
                "invalid-page-token",
                "page_token is not one of this release and this request: send the fields of the "
                "first page unchanged, or ask for a first page again",
            )
        # Whatever passes was made here, so its layout is ours.
        version, first_rank = _HEAD.unpack_from(body)
        assert version == _VERSION
        return Slate(np.frombuffer(body, ROW, offset=_HEAD.size), first_rank)

    def _tag(self, body: bytes, request: SlateRequest) -> bytes:
        asked = request.model_dump(mode="json", exclude=_FREE)
        bound = orjson.dumps(
            [type(request).__name__, self._release_id, asked], option=orjson.OPT_SORT_KEYS
        )
        digest = hashlib.sha256(bound).digest()
        return hmac.digest(self._secret, digest + body, "sha256")[:_TAG_BYTES]


def _text(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")
