"""Four processes that live as long as the test session, so that a test pays for its own work only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worker_pool import WorkerPool


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    workers = WorkerPool(4, tmp_path_factory.mktemp("pool"))
    yield workers
    workers.close()


@pytest.fixture(scope="session")
def nccl_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    workers = WorkerPool(4, tmp_path_factory.mktemp("nccl"), "nccl")
    yield workers
    workers.close()
