"""What another machine reaches of a run that has no business with it: nothing; tests/faults has more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.binaries.endless import endless
from tests.faults.networks import Cable, listening_ports, two_hosts


@pytest.fixture
def cable() -> Iterator[Cable]:
    try:
        with two_hosts() as cable:
            yield cable
    except RuntimeError as error:
        pytest.skip(str(error))


def test_a_run_learns_and_no_other_machine_or_program_reaches_its_replay(cable: Cable, tmp_path: Path) -> None:
    machine, other = cable.left, cable.right
    with endless(tmp_path / "run", inside=machine.inside) as train:
        (replay,) = listening_ports(train.process.pid)
        assert listening_ports(machine.pid) == []
        assert other.connect(machine.address, replay) == "Connection refused"
        assert machine.connect("127.0.0.1", replay) == "Connection refused"
