"""Protection over two processes, each of which has the whole model (DDP) or shards of it (FSDP2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.protection.ranks import work


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch knows no processes")
def test_protection_over_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
