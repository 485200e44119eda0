"""Dynamic batching: pairs that arrive together go through the pipeline together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from garment_transfer import Person, Pipeline, Transfer
from garment_transfer.runtime import transfer_each

# How much the newest batch counts in the running mean of seconds per pair.
_NEWEST = 0.2


@dataclass
class _Waiting:
    person: Person
    garment_owner: Person
    since: float
    transfer: asyncio.Future[Transfer]


class Batcher:
    """Runs transfers on one thread, in batches of what is waiting when the thread gets free.

    A batch has at most `max_batch` pairs, and is not held back for more than `max_wait` seconds
    from the arrival of its first pair. `on_batch` is called with every batch's size. To be made
    inside a running event loop.
    """

    def __init__(
        self, pipeline: Pipeline, max_batch: int, max_wait: float, on_batch: Callable[[int], None]
    ) -> None:
        self.seconds_per_pair = 0.0  #: running mean; 0 before the first batch
        self._pipeline = pipeline
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "transfer")
        self._worker = self._loop.create_task(self._work())

    @property
    def alive(self) -> bool:
        """Whether batches are still being taken."""
        return not self._worker.done()

    async def transfer(self, person: Person, garment_owner: Person) -> Transfer:
        """Waits for the transfer of one pair; cancelled before its batch starts, it is not run.

        Raises what `Pipeline.transfer` raises for this pair, whatever its neighbours do.
        """
        future: asyncio.Future[Transfer] = self._loop.create_future()
        self._waiting.put_nowait(_Waiting(person, garment_owner, self._loop.time(), future))
        return await future

    async def close(self) -> None:
        """Stops; to be called when nobody waits any more."""
        self._worker.cancel()
        await asyncio.wait([self._worker])
        self._thread.shutdown()

    async def _work(self) -> None:
        while True:
            batch = await self._collect()
            if not batch:
                continue
            self._on_batch(len(batch))
            started = self._loop.time()
            people = [(pair.person, pair.garment_owner) for pair in batch]
            results = await self._loop.run_in_executor(
                self._thread, transfer_each, self._pipeline, people
            )
            newest = (self._loop.time() - started) / len(batch)
            self.seconds_per_pair += _NEWEST * (newest - self.seconds_per_pair)
            for pair, result in zip(batch, results, strict=True):
                if pair.transfer.done():  # nobody waits for it any more
                    continue
                if isinstance(result, Transfer):
                    pair.transfer.set_result(result)
                else:
                    pair.transfer.set_exception(result)

    async def _collect(self) -> list[_Waiting]:
        """The next batch: what is waiting, and what comes within the time of the first."""
        batch: list[_Waiting] = []
        while len(batch) < self._max_batch:
            deadline = batch[0].since + self._max_wait if batch else None
            try:
                async with asyncio.timeout_at(deadline):
                    batch.append(await self._waiting.get())
            except TimeoutError:
                break
            batch = [pair for pair in batch if not pair.transfer.done()]
        return [pair for pair in batch if not pair.transfer.done()]
