"""One rank by itself, shares of things, and processes that end with a code."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from rung.distributed.launch import GRACE, ORDERLY, launch
from rung.distributed.ranks import Ranks, init_ranks
from rung.errors import ConfigError


def test_one_rank_is_its_own_sum_and_gathering() -> None:
    ranks = Ranks()
    assert ranks.sum({"a": torch.tensor(1.5), "b": torch.tensor(2)}) == {"a": 1.5, "b": 2.0}
    assert ranks.sum({"a": torch.tensor(1)})["a"].dtype == torch.float64
    assert ranks.max({"a": torch.tensor(-3.0)}) == {"a": -3.0}
    assert ranks.gather({"x": [1]}) == [{"x": [1]}]
    (named,) = ranks.gather_tensors({"x": torch.ones(2)})
    assert named["x"].tolist() == [1, 1]
    assert (ranks.agree(True), ranks.agree(False)) == (True, False)


def test_a_rank_takes_every_so_manyth_thing_from_its_number_on() -> None:
    assert [list(Ranks(rank, 3).share(range(7))) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert Ranks().share("abc") == "abc"


def test_a_parameter_without_a_gradient_gets_zeros_and_the_others_keep_theirs() -> None:
    still, moved = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    moved.grad = torch.tensor([1.0, 2.0])
    Ranks().sum_gradients([still, moved])
    assert still.grad is not None
    assert (still.grad.tolist(), moved.grad.tolist()) == ([0, 0], [1, 2])


def test_a_plain_process_is_one_rank_and_cannot_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_ranks() as ranks:
        assert ranks == Ranks(0, 1, False)
    with pytest.raises(ConfigError, match="--fully-shard"), init_ranks(True):
        pass


def test_codes_of_an_end_that_is_no_failure() -> None:
    assert ORDERLY == (0, 3, 4, 75)
    assert GRACE == 10.0


PROGRAM = """
import os, sys
rank, told = os.environ["RANK"], os.environ
words = [told["LOCAL_RANK"], told["WORLD_SIZE"], told["OMP_NUM_THREADS"], *sys.argv[1:]]
open(f"rank{rank}", "w").write(" ".join(words))
code = int(sys.argv[1].split(",")[int(rank)])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@pytest.mark.process
@pytest.mark.parametrize(("codes", "code"), [("0,0", 0), ("0,3", 3), ("-9,0", 137)])
def test_the_code_is_that_of_the_first_process_that_did_not_end_well(
    codes: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package `rung` of two lines stands for the command; each process knows its rank."""
    (tmp_path / "rung").mkdir()
    (tmp_path / "rung" / "__init__.py").write_text("")
    (tmp_path / "rung" / "__main__.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch([codes, "x"], 2) == code
    threads = max(1, (os.cpu_count() or 1) // 2)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == [
        f"{rank} 2 {threads} {codes} x" for rank in range(2)
    ]
    assert sys.executable
