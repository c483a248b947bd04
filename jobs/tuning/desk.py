"""Where trainings on Ray and the one process with the study meet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Letter:
    """One validated epoch of a trial."""

    trial: int
    stage: str
    epoch: int
    """From 0, within the stage."""
    value: float
    """Validation ndcg@10."""


class Desk:
    """Holds each report until the study has answered it. A Ray actor, with asyncio inside."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[Letter] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[bool]] = {}

    async def report(self, trial: int, figures: dict[str, Any]) -> bool:
        """An epoch of a trial; returns when the study says whether it goes on."""
        self._answers[trial] = answer = asyncio.get_running_loop().create_future()
        await self._letters.put(
            Letter(trial, figures["stage"], figures["epoch"], figures["validate_ndcg@10"])
        )
        return await answer

    async def take(self) -> list[Letter]:
        """All letters that lie here; waits for one."""
        found = [await self._letters.get()]
        while not self._letters.empty():
            found.append(self._letters.get_nowait())
        return found

    async def answer(self, trial: int, goes_on: bool) -> None:
        """The study's word on the last letter of a trial."""
        waiting = self._answers.pop(trial, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(goes_on)
