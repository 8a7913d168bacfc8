"""Batches: which parts of one go to which client."""

from __future__ import annotations

from broadcast.server.batch import Batch


class TestBatch:
    def test_batch_excludes_ranges_for_each_client(self) -> None:
        clock_free = Batch(0)
        clock_free.blocks += [b"aa", b"bb", b"cc", b"dd"]
        a, b, c, d = object(), object(), object(), object()
        clock_free.exclude(a, 0, 2)  # type: ignore[arg-type]
        clock_free.exclude(a, 4, 6)  # type: ignore[arg-type]
        clock_free.exclude(b, 0, 4)  # type: ignore[arg-type]
        clock_free.exclude(c, 2, 4)  # type: ignore[arg-type]
        clock_free.exclude(c, 6, None)  # type: ignore[arg-type]
        assert clock_free.seal() == b"aabbccdd"
        parts = [clock_free.data_for(receiver) for receiver in (a, b, c, d)]  # type: ignore[arg-type]
        assert parts == [b"bbdd", b"ccdd", b"aacc", b"aabbccdd"]

    async def test_batch_of_a_single_block_is_not_copied(self) -> None:
        batch, block = Batch(0), b"x" * 1000
        batch.blocks.append(block)
        assert batch.seal() is block
