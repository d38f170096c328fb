"""GSPO: numbers derived by hand, TRL's loss of sequences, and what the ratio of a row does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.commands import Command
from helpers.group_relative import one_row
from helpers.losses import DTYPES, SEEDS, assert_same, batch_and_logps, ours, theirs
from helpers.policies import tiny_policy
from helpers.trl import trl_grpo
from rung.algorithms.grpo import GRPO
from rung.algorithms.gspo import GSPO, GSPOToken
from rung.batch import Outputs
from rung.config import load_config, resolve
from rung.metrics import values

LEVELS = pytest.mark.parametrize("algorithm", [GSPO(), GSPOToken()], ids=["sequence", "sequence_token"])


@pytest.mark.maths
@LEVELS
@pytest.mark.parametrize(("advantage", "loss", "slope"), [(1.0, -1.0004, 0.0), (-1.0, 1.005013, 1.005013 / 3)])
def test_a_row_has_the_geometric_mean_of_its_ratios(
    algorithm: GSPO, advantage: float, loss: float, slope: float, certify: Certify
) -> None:
    """Delta = [.02, -.01, .005]: mean .005, s = 1.005013, above 1.0004: a gain is cut, a loss is not."""
    found, gradient = ours(algorithm, *one_row([0.02, -0.01, 0.005], advantage))
    assert float(found) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(gradient, torch.full_like(gradient, slope), atol=1e-6, rtol=0)
    certify(algorithm.name, "golden", [found, gradient], [loss, torch.full_like(gradient, slope)])


@pytest.mark.maths
def test_a_mean_log_ratio_beyond_20_is_taken_as_20() -> None:
    """Tokens are not clamped: 500 and -496 have mean 2, s = e^2 = 7.389056; 60 and 20 have 40, taken as 20."""
    wide = GSPO(epsilon=0.5, epsilon_high=1e9)
    assert float(ours(wide, *one_row([500.0, -496.0], 1.0))[0]) == pytest.approx(-7.389056, abs=1e-5)
    assert float(ours(wide, *one_row([60.0, 20.0], 1.0))[0]) == pytest.approx(-485165195.40979, abs=1e-3)


@pytest.mark.oracle
@DTYPES
@SEEDS
@pytest.mark.parametrize(
    "algorithm",
    [
        GSPO(),
        GSPO(epsilon=0.1, epsilon_high=0.2),
        GSPO(epsilon=0.1, epsilon_high=0.15, delta=1.2),
        GSPOToken(),
        GSPOToken(epsilon=0.1, epsilon_high=0.2),
    ],
    ids=["gspo", "gspo-wide", "gspo-delta", "gspo_token", "gspo_token-wide"],
)
def test_loss_and_gradient_equal_trl(algorithm: GSPO, seed: int, dtype: torch.dtype, certify: Certify) -> None:
    """GSPO-token has one advantage a row here, so value and gradient are those of TRL's sequence level too."""
    batch, logps = batch_and_logps(seed, None, dtype)
    batch = algorithm.credit(batch, {})[0]
    both = assert_same(ours(algorithm, batch, logps), theirs(trl_grpo(batch, "grpo", algorithm), batch, logps), dtype)
    certify(algorithm.name, "oracle", *both)


@pytest.mark.maths
def test_gspo_token_gives_each_token_the_gradient_of_its_own_advantage(certify: Certify) -> None:
    """Inside the bounds d loss / d log pi_t = - s A_t / |y|; the plain ratio shares the mean of the advantages."""
    batch, logps = one_row([0.1, -0.1, 0.03], 0.0)
    advantages = torch.tensor([[1.0, -2.0, 4.0]], dtype=torch.float64)
    batch = replace(batch, advantages=advantages)
    ratio = torch.tensor(0.01, dtype=torch.float64).exp()
    _, apart = ours(GSPOToken(epsilon=0.2, epsilon_high=0.2), batch, logps)
    _, shared = ours(GSPO(epsilon=0.2, epsilon_high=0.2), batch, logps)
    torch.testing.assert_close(apart, -ratio * advantages / 3)
    certify("gspo_token", "golden", apart, -ratio * advantages / 3)
    torch.testing.assert_close(shared, (-ratio * advantages.mean() / 3).expand(1, 3))


@LEVELS
@pytest.mark.parametrize("seed", range(3))
def test_the_kl_has_the_ratio_of_its_token(algorithm: GSPO, seed: int) -> None:
    """What `beta` adds to loss and gradient is what it adds to GRPO's, which has the ratio of each token."""
    batch, logps = batch_and_logps(seed, None, torch.float64)
    batch = algorithm.credit(batch, {})[0]
    with_kl = type(algorithm)(beta=0.1)
    added = [a - b for a, b in zip(ours(with_kl, batch, logps), ours(algorithm, batch, logps), strict=True)]
    wanted = [a - b for a, b in zip(ours(GRPO(beta=0.1), batch, logps), ours(GRPO(beta=0), batch, logps), strict=True)]
    torch.testing.assert_close(added, wanted)


@LEVELS
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_plays_no_part(algorithm: GSPO, seed: int) -> None:
    """Any number in a column that is not trained, NaN included, leaves loss and gradient as they were."""
    batch, logps = batch_and_logps(seed, None, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9)).loss_mask
    batch = algorithm.credit(replace(batch, loss_mask=trained), {})[0]
    assert batch.old_logps is not None
    assert batch.advantages is not None
    rubbish = replace(
        batch,
        old_logps=batch.old_logps.masked_fill(~trained, float("nan")),
        advantages=batch.advantages.masked_fill(~trained, float("nan")),
    )
    loss, gradient = ours(algorithm, batch, logps)
    other, found = ours(algorithm, rubbish, logps)
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)


@pytest.mark.maths
@LEVELS
def test_the_first_update_is_reinforce_and_clips_nothing(algorithm: GSPO, certify: Certify) -> None:
    """On the weights that sampled, s is 1 and d loss / d log pi_t = - A / |y| / N."""
    batch, logps = batch_and_logps(0, None, torch.float64)
    batch = algorithm.credit(replace(batch, old_logps=logps), {})[0]
    assert batch.advantages is not None
    _, gradient = ours(algorithm, batch, logps)
    expected = -batch.advantages / batch.lengths[:, None] / batch.num_rows
    torch.testing.assert_close(gradient, expected)
    certify(algorithm.name, "golden", gradient, expected)
    outputs = Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)})
    assert values(algorithm.loss(batch, outputs).metrics)["clip_ratio/region_mean"] == 0


def test_later_updates_clip_at_gspos_bounds_and_never_at_grpos() -> None:
    """The old log-probs are a real policy's; its weights then move a little."""
    algorithm = GSPO()
    policy = tiny_policy("llama")
    generator = torch.Generator().manual_seed(1)
    batch = random_batch(generator, prompts=4, rows=(4, 4))
    batch = replace(batch, rewards=torch.rand(batch.num_rows, generator=generator))
    batch = algorithm.credit(algorithm.prepare(batch, policy), {})[0]
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter += 0.002 * torch.randn(parameter.shape, generator=generator)
    logps = policy.logps(batch)
    outputs = Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)})
    for made, clipped in ((algorithm, True), (GSPO(epsilon=0.2, epsilon_high=0.2), False)):
        assert (values(made.loss(batch, outputs).metrics)["clip_ratio/region_mean"] > 0) == clipped


@pytest.mark.parametrize("name", ["gspo", "gspo_token"])
def test_a_rollout_is_four_updates(name: str) -> None:
    for size in ("tiny", "small", "large"):
        config = resolve(load_config("gspo", [f"algorithm={name}"]), size)
        assert config.stages[0].updates.minibatches == 4


ONE_UPDATE = "one update per rollout: the ratio of every completion is 1"


@pytest.mark.parametrize(
    ("algorithm", "minibatches", "told"),
    [
        ({"name": "gspo"}, "auto", []),
        ({"name": "gspo"}, 1, [ONE_UPDATE]),
        ({"name": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05}, 1, [ONE_UPDATE]),
        ({"name": "grpo"}, 1, []),
    ],
    ids=["as it is", "one update", "a ratio of sequences inside grpo", "a ratio of tokens"],
)
def test_check_tells_of_settings_under_which_the_ratio_does_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    algorithm: dict[str, object],
    minibatches: int | str,
    told: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"prompt": "1+1?"}\n')
    Path("judge.py").write_text("def length(completion: str) -> float:\n    return len(completion)\n")
    stage = {
        "name": "whole",
        "algorithm": algorithm,
        "data": "prompts.jsonl",
        "rewards": ["./judge.py:length"],
        "updates": {"minibatches": minibatches},
    }
    Path("whole.yaml").write_text(json.dumps({"name": "whole", "model": "tiny:llama", "stages": [stage]}))
    assert command("check", "whole.yaml") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("whole: ")]
    assert [note for note in [ONE_UPDATE] if any(note in line for line in notes)] == told
