"""The toy path and its candidates, as tests of scores have them."""

from tests.scores.conftest import K, candidates, path

__all__ = ["K", "candidates", "path"]
