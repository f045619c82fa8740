"""The fixtures of the data path's tests, for those of the servers."""

from tests.pipeline.conftest import serve as serve
