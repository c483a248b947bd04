"""A load generator: threads with a kept-alive connection each, in a process of its own.

Reads `{"port", "path", "bodies", "clients"}` from standard input, sends each body once, writes the
replies and what each of them took. Nothing but the standard library: it shares two cores with what
it measures.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from typing import Any


def drive(calls: Sequence[Callable[[Any], Any]], given: Sequence[Any]) -> dict[str, Any]:
    """Hands out `given` one by one to as many threads as there are `calls`.

    Returns:
        seconds of all, seconds of each, and what the calls returned, in the order of `given`.
    """
    took, replies = [0.0] * len(given), [None] * len(given)
    numbers, lock = iter(range(len(given))), threading.Lock()
    ready = threading.Barrier(len(calls) + 1)

    def client(call: Callable[[Any], Any]) -> None:
        ready.wait()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            begin = time.perf_counter()
            replies[number] = call(given[number])
            took[number] = time.perf_counter() - begin

    threads = [threading.Thread(target=client, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - begin, "took": took, "replies": replies}


def post(port: int, path: str) -> Callable[[str], Any]:
    """A client with a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()

    def call(body: str) -> Any:
        connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {content[:200]!r}")
        return content

    return call


def main() -> None:
    asked = json.load(sys.stdin)
    calls = [post(asked["port"], asked["path"]) for _ in range(asked["clients"])]
    found = drive(calls, asked["bodies"])
    if None in found["replies"]:
        raise SystemExit("a client stopped: its error stands above")
    found["replies"] = [json.loads(reply) for reply in found["replies"]]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
