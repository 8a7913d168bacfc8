"""Batches: which parts of a batch are sent to which client."""

from __future__ import annotations

from broadcast.server.batch import Batch


class TestBatch:
    def test_batch_excludes_ranges_for_each_client(self) -> None:
        batch = Batch(0)
        batch.blocks += [b"aa", b"bb", b"cc", b"dd"]
        a, b, c, d = object(), object(), object(), object()
        batch.exclude(a, 0, 2)  # type: ignore[arg-type]
        batch.exclude(a, 4, 6)  # type: ignore[arg-type]
        batch.exclude(b, 0, 4)  # type: ignore[arg-type]
        batch.exclude(c, 2, 4)  # type: ignore[arg-type]
        batch.exclude(c, 6, None)  # type: ignore[arg-type]
        assert batch.seal() == b"aabbccdd"
        parts = [batch.data_for(client) for client in (a, b, c, d)]  # type: ignore[arg-type]
        assert parts == [b"bbdd", b"ccdd", b"aacc", b"aabbccdd"]

    async def test_batch_of_a_single_block_is_not_copied(self) -> None:
        batch, block = Batch(0), b"x" * 1000
        batch.blocks.append(block)
        assert batch.seal() is block
