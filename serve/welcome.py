"""What to try first: requests about users and items that the running service really knows."""

from __future__ import annotations

import json
import shlex
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from models.text import words
from serve import auth

_CANDIDATES = 12


class Client:
    """A client of the service on this machine."""

    def __init__(self, url: str) -> None:
        self.url, self._keys = url, auth.keys_from_environment()

    def call(self, path: str, body: Any = None) -> Any:
        """The reply to GET, or to POST where there is a body."""
        headers = {"Content-Type": "application/json"}
        if self._keys:
            headers["Authorization"] = f"Bearer {self._keys[0]}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def wait(self, seconds: float) -> None:
        """Until the service says that it is ready.

        Raises:
            ValueError: when it does not in time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.call("/health/ready")
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end:
                    raise ValueError(f"{self.url} does not get ready: {error}") from error
                time.sleep(0.2)
            else:
                return

    def curl(self, path: str, body: Any = None) -> str:
        """The same call as a line for a shell."""
        key = ' -H "Authorization: Bearer ${EBB_API_KEYS%%,*}"' if self._keys else ""
        sent = "" if body is None else f" -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
        return f"curl -s{key} {shlex.quote(self.url + path)}{sent}"


def introduction(client: Client, release: Path) -> list[tuple[str, str]]:
    """Titles and curl lines about a user with a memory; empty where there is none."""
    rows = next(pq.ParquetFile(release / "memory.parquet").iter_batches(200, columns=["user_id"]))
    users = rows["user_id"].to_pylist()[:: max(len(rows) // _CANDIDATES, 1)]
    memories = [client.call(f"/v1/users/{quote(user, safe='')}/memory") for user in users]
    memories = [memory for memory in memories if memory["items"]]
    if not memories:
        return []
    memory = max(memories, key=lambda m: len(m["interactions"]))
    user = memory["user_id"]
    chosen = client.call("/v1/recommend", {"user_id": user, "page_size": 1})["items"]
    item = chosen[0]["item_id"] if chosen else memory["items"][0]["item_id"]
    event = {"event_id": "try-1", "user_id": user, "action": "purchase", "item_id": item}
    query = " ".join(words(memory["items"][0]["text"])[:2])
    return [
        ("recommend to a known user", _post(client, "recommend", user_id=user, page_size=3)),
        ("tell that the user bought one of them", _post(client, "events", events=[event])),
        (
            "search, with that in memory",
            _post(client, "search", query=query, user_id=user, page_size=3),
        ),
        (
            "what is remembered (-X DELETE erases it)",
            client.curl(f"/v1/users/{quote(user, safe='')}/memory"),
        ),
    ]


def report(release: Path) -> str:
    """The first two tables of the evaluation beside a release, empty where there is none."""
    path = release.parent / "evaluation" / "report.md"
    if not path.is_file():
        return ""
    head, *tables = path.read_text(encoding="utf-8").split("\n## ")
    return "\n## ".join([head, *tables[:2]])


def _post(client: Client, endpoint: str, **body: Any) -> str:
    return client.curl(f"/v1/{endpoint}", body)
