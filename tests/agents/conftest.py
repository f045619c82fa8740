"""The fixtures of the data path's tests, for those of the agents."""

from tests.pipeline.conftest import serve as serve
