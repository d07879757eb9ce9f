"""The training loop: what it steps, averages, validates, keeps and resumes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stpredict._train import loop as _loop
from stpredict._train.batches import BatchLimit, gather
from stpredict._train.config import FitConfig
from stpredict._train.loop import TrainingState, ValidationSpots, outputs, seeded_rng, train

CONFIG = FitConfig(n_epochs=4, batch_size=8, lr=3e-3, warmup_epochs=0.5, accelerator="cpu", precision="32-true")


def held_out(spots, **options):
    batch = spots(n=12, seed=9, **options)
    return ValidationSpots(spots=batch, observed=batch.targets.numpy(), decode=lambda encoded: encoded)


def run(network, spots, fabric, config=CONFIG, *, held=None, state=None, report=lambda state: None, seed=0):
    model = network(seed)
    state = train(model, spots(), held, config, fabric, state=state or TrainingState(), report=report)
    return model, state


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_seed_same_weights_to_the_bit(network, spots, fabric):
    (first, state), (again, _) = (run(network, spots, fabric, held=held_out(spots)) for _ in range(2))
    assert same(first.state_dict(), again.state_dict())
    other, _ = run(network, spots, fabric, replace(CONFIG, seed=1), held=held_out(spots))
    assert not same(first.state_dict(), other.state_dict())
    assert [row["epoch"] for row in state.history] == [0, 1, 2, 3]


def test_global_random_state_is_neither_used_nor_changed(network, spots, fabric):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = run(network, spots, fabric)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, _ = run(network, spots, fabric)
    assert same(first.state_dict(), again.state_dict())


@pytest.mark.parametrize(("stop_after", "validated"), [(1, True), (3, False)])
def test_a_resumed_run_ends_as_an_uninterrupted_one(network, spots, fabric, stop_after, validated):
    held = held_out(spots) if validated else None
    straight, wanted = run(network, spots, fabric, held=held)

    states = []

    def interrupt(state):
        states.append(state)
        if state.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(network, spots, fabric, held=held, report=interrupt)
    left = states[-1]
    assert left.epoch == stop_after
    resumed, found = run(network, spots, fabric, held=held, state=copy.deepcopy(left), seed=7)
    assert same(resumed.state_dict(), straight.state_dict())
    assert (found.best_epoch, found.best_score) == (wanted.best_epoch, wanted.best_score)
    keys = set(wanted.history[0]) - {"spots_per_s"}
    assert [{k: row[k] for k in keys} for row in found.history] == [{k: r[k] for k in keys} for r in wanted.history]


def test_interrupted_amid_an_epoch_the_last_whole_epoch_is_reported(network, spots, fabric, monkeypatch):
    seen, steps, step = [], [], _loop._optimizer_step

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 5:  # three steps an epoch
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(_loop, "_optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(network, spots, fabric, report=seen.append)
    monkeypatch.setattr(_loop, "_optimizer_step", step)
    assert [state.epoch for state in seen] == [1, 1]
    resumed, _ = run(network, spots, fabric, state=seen[-1])
    assert same(resumed.state_dict(), run(network, spots, fabric)[0].state_dict())


@pytest.mark.parametrize(("moment", "nth"), [("_validate", 1), ("_cpu_copy", 2), ("_cpu_copy", 9), ("outputs", 1)])
def test_interrupted_while_an_epoch_is_finished_the_state_is_that_of_the_one_before(
    network, spots, fabric, monkeypatch, moment, nth
):
    """Weights, moments, scores and the number of the epoch are of one moment, also when validation is interrupted."""
    held, seen, calls = held_out(spots), [], []
    straight, expected = run(network, spots, fabric, held=held)
    call = getattr(_loop, moment)

    def interrupted(*arguments, **named):
        calls.extend([1] * len(seen))
        if len(calls) == nth:
            raise KeyboardInterrupt
        return call(*arguments, **named)

    monkeypatch.setattr(_loop, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(network, spots, fabric, held=held, report=seen.append)
    monkeypatch.undo()
    assert [state.epoch for state in seen] == [1, 1]
    assert all(len(state.history) == state.epoch for state in seen)
    resumed, found = run(network, spots, fabric, held=held, state=copy.deepcopy(seen[-1]), seed=7)
    assert same(resumed.state_dict(), straight.state_dict())
    assert (found.best_epoch, found.best_score) == (expected.best_epoch, expected.best_score)


def test_a_finished_run_is_not_trained_on(network, spots, fabric):
    model, state = run(network, spots, fabric)
    again, after = run(network, spots, fabric, state=copy.deepcopy(state), seed=3)
    assert same(model.state_dict(), again.state_dict())
    assert len(after.history) == 4


def scored(monkeypatch, scores):
    """Validation scores as given, one an epoch."""
    given = iter(scores)
    monkeypatch.setattr(_loop, "_validation_scores", lambda *_: {"val_loss": 0.0, "val_pearson": next(given)})


def test_early_stopping_stops_and_the_best_weights_are_kept(network, spots, fabric, monkeypatch):
    scored(monkeypatch, [0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    averages = []
    config = replace(CONFIG, n_epochs=6, patience=2)
    model, state = run(
        network, spots, fabric, config, held=held_out(spots), report=lambda state: averages.append(state.average)
    )
    assert (state.epoch, state.best_epoch, state.best_score) == (4, 1, 0.5)
    assert same(model.state_dict(), averages[1])
    assert not same(averages[1], averages[3])


def test_equal_scores_do_not_count_as_better(network, spots, fabric, monkeypatch):
    scored(monkeypatch, [0.0, 0.0, 0.0, 0.0])
    _, state = run(network, spots, fabric, replace(CONFIG, patience=1), held=held_out(spots))
    assert (state.epoch, state.best_epoch) == (2, 0)


def test_without_validation_the_last_average_is_kept(network, spots, fabric):
    model, state = run(network, spots, fabric)
    assert state.best_epoch == 3
    assert same(model.state_dict(), state.average)
    assert "val_pearson" not in state.history[0]


def test_it_learns_colour(network, spots, fabric):
    config = replace(CONFIG, n_epochs=20, lr=1e-2, ema_decay=0.8, stain_jitter=0.0, brightness_jitter=0.0)
    _, state = run(network, spots, fabric, config, held=held_out(spots))
    first, last = state.history[0], state.history[-1]
    assert last["val_pearson"] > 0.9
    assert last["train_loss"] < 0.3 * first["train_loss"]
    assert last["val_loss"] < 0.5


def test_the_untrained_network_is_the_mean_profile(network, spots, fabric):
    batch, model = spots(), network()
    mean = batch.targets.mean(dim=0)
    model.initialize_at(mean)
    given = outputs(model, batch, fabric, 8)
    torch.testing.assert_close(given, mean.expand(24, 3))
    train(
        model,
        batch,
        None,
        replace(CONFIG, n_epochs=1, lr=1e-8),
        fabric,
        state=TrainingState(),
        report=lambda state: None,
    )
    torch.testing.assert_close(outputs(model, batch, fabric, 8), mean.expand(24, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("epoch", "wanted"), [
    (0.0, 0.1 / 1.1), (0.5, 0.6 / 1.1), (1.0, 1.0), (3.0, 0.5), (2.0, 0.5 * (1 + math.cos(math.pi / 4))), (5.0, 0.0),
])  # fmt: skip
def test_learning_rate_warms_up_then_follows_a_cosine(epoch, wanted):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    _loop._set_lr(optimizer, FitConfig(n_epochs=5, warmup_epochs=1.0, lr=2.0), epoch)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2 * wanted)


def test_the_first_step_is_not_lost():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    _loop._set_lr(optimizer, FitConfig(n_epochs=1, warmup_epochs=1.0, lr=1.0), 0.0)
    assert optimizer.param_groups[0]["lr"] > 0


@pytest.mark.parametrize(("decay", "step", "wanted"), [(0.99, 0, 0.1), (0.99, 8, 0.5), (0.5, 8, 0.5), (0.0, 99, 0.0)])
def test_average_follows_the_weights(decay, step, wanted):
    model = torch.nn.BatchNorm1d(2)  # has a whole number among its state
    average = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    model.num_batches_tracked.fill_(7)
    _loop._update_average(average, model, decay, step)
    assert average["weight"].tolist() == pytest.approx([1 - wanted] * 2)
    assert average["num_batches_tracked"].item() == 7


def test_no_average_is_the_weights(network, spots, fabric):
    model, state = run(network, spots, fabric, replace(CONFIG, ema_decay=0.0))
    assert same(model.state_dict(), state.weights)


def test_only_matrices_decay(network):
    model = network()
    decayed, rest = _loop._parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(parameter)] for parameter in rest["params"]}
    assert all("bias" in name or "norm" in name or "cls" in name or "position" in name for name in kept
               if model.get_parameter(name).ndim != 1)  # fmt: skip
    assert {"cls.0", "positions.0", "head.bias"} <= kept
    assert "head.weight" in {names[id(parameter)] for parameter in decayed["params"]}
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_scores_are_averaged_over_slides_of_three_spots_or_more(spots):
    batch = spots(n=8)
    batch.slide = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    observed = batch.targets.numpy()
    given = batch.targets.clone()
    given[3:6] = -given[3:6]  # slide 1 is upside down
    given[6:] = 1000.0
    found = _loop._validation_scores(
        given, ValidationSpots(spots=batch, observed=observed, decode=lambda encoded: encoded)
    )
    assert found["val_pearson"] == pytest.approx(0.0, abs=1e-6)
    assert found["val_loss"] == pytest.approx(float(((given - batch.targets) ** 2).mean()))


def test_scores_without_targets_or_variation(spots):
    batch = replace(spots(n=6), targets=None)
    held = ValidationSpots(spots=batch, observed=np.ones((6, 3)), decode=lambda encoded: encoded)
    found = _loop._validation_scores(torch.zeros(6, 3), held)
    assert math.isnan(found["val_loss"])
    assert found["val_pearson"] == 0.0


def test_fewer_spots_than_a_batch_are_one_step(network, spots, fabric):
    _, state = run(network, spots, fabric, replace(CONFIG, batch_size=1000))
    assert state.moments["head.weight"]["step"] == 4


def test_outputs_do_not_depend_on_the_batch_and_leave_the_mode(network, spots, fabric):
    model, batch = network(), spots()
    torch.nn.init.normal_(model.head.weight)
    model.train()
    whole, parts = (outputs(model, batch, fabric, n) for n in (24, 5))
    torch.testing.assert_close(whole, parts)
    assert model.training


def test_averaging_all_views_makes_the_view_irrelevant(network, spots, fabric):
    model, batch = network(), spots(n=4)
    torch.nn.init.normal_(model.head.weight)
    turned = replace(batch, patches=batch.patches.transpose(-1, -2).flip(-1))
    one, other = (outputs(model, b, fabric, 8) for b in (batch, turned))
    assert not torch.allclose(one, other, atol=1e-3)
    all_views, all_of_turned = (outputs(model, b, fabric, 8, symmetries=8) for b in (batch, turned))
    torch.testing.assert_close(all_views, all_of_turned, atol=1e-5, rtol=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(network, spots, fabric):
    with pytest.raises(FloatingPointError, match=r"The loss became nan in epoch 0\. Lower `lr`"):
        train(network(), replace(spots(), targets=torch.full((24, 3), math.nan)), None, CONFIG, fabric,
              state=TrainingState(), report=lambda state: None)  # fmt: skip


class Hungry:
    """Runs out of memory above some number of spots, with the forward pass done."""

    def __init__(self, model, most, error=torch.OutOfMemoryError):
        self.most, self.error, self.tried = most, error, []
        model.head.register_forward_hook(self)

    def __call__(self, model, given, result):
        self.tried.append(len(given[0]))
        if len(given[0]) > self.most:
            msg = "DefaultCPUAllocator: can't allocate memory: you tried to allocate a lot"
            raise self.error(msg)


@pytest.mark.parametrize(("most", "error"), [(1, torch.OutOfMemoryError), (3, RuntimeError)])
def test_steps_that_do_not_fit_are_added_up_over_parts(network, spots, fabric, most, error):
    """Same gradient, hence the same weights, but for the order of summation; tried once, then remembered."""
    whole, held = network(mask_rate=0.0), held_out(spots)
    wanted = train(whole, spots(), held, CONFIG, fabric, state=TrainingState(), report=lambda state: None)
    model = network(mask_rate=0.0)
    hungry = Hungry(model, most, error)
    found = train(model, spots(), held_out(spots), CONFIG, fabric, state=TrainingState(), report=lambda state: None)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], atol=1e-6, rtol=1e-5)
    assert [row["train_loss"] for row in found.history] == pytest.approx([r["train_loss"] for r in wanted.history])
    assert found.moments["head.weight"]["step"] == 12  # 24 spots, 8 a step, 4 epochs
    failed = [n for n in hungry.tried if n > most]
    assert failed == {1: [8, 4, 2], 3: [8, 4]}[most] * 2  # once in training, once in validation


def test_a_step_begun_again_draws_the_same_random_numbers(network, spots, fabric, monkeypatch):
    """Which keys are masked must not depend on when memory ran out, or a resumed run would differ."""
    model = network(mask_rate=0.5)
    Hungry(model, 4)
    train(model, spots(), None, CONFIG, fabric, state=TrainingState(), report=lambda state: None)
    known = network(mask_rate=0.5)
    monkeypatch.setattr(_loop, "BatchLimit", lambda size: BatchLimit(min(size, 4)))
    train(known, spots(), None, CONFIG, fabric, state=TrainingState(), report=lambda state: None)
    assert same(model.state_dict(), known.state_dict())


def test_outputs_in_smaller_batches_where_memory_runs_out(network, spots, fabric):
    model, batch = network(), spots()
    torch.nn.init.normal_(model.head.weight)
    wanted = outputs(model, batch, fabric, 24)
    hungry, limit = Hungry(model, 5), BatchLimit(24)
    torch.testing.assert_close(outputs(model, batch, fabric, limit), wanted)
    assert hungry.tried == [24, 12, 6, *[3] * 8]
    assert limit.size == 3


def test_a_single_spot_that_does_not_fit(network, spots, fabric):
    model = network()
    Hungry(model, 0)
    with pytest.raises(MemoryError, match="does not hold the network and a single spot"):
        outputs(model, spots(), fabric, 8)
    with pytest.raises(MemoryError, match="does not hold the network and a single spot"):
        train(model, spots(), None, CONFIG, fabric, state=TrainingState(), report=lambda state: None)


def test_other_errors_of_a_network_are_not_swallowed(network, spots, fabric):
    model = network()
    model.head.register_forward_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        outputs(model, spots(), fabric, 8)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train(model, spots(), None, CONFIG, fabric, state=TrainingState(), report=lambda state: None)


def test_rows_of_one_set_of_spots_are_as_good_as_two_sets(network, spots, fabric):
    together = spots(n=36)
    learnt, tested = torch.randperm(36, generator=torch.Generator().manual_seed(0)).split(24)

    def ended(spots, rows, held):
        model = network()
        state = train(model, spots, held, CONFIG, fabric, state=TrainingState(), report=lambda state: None, rows=rows)
        return model.state_dict(), [row["val_pearson"] for row in state.history]

    observed = together.targets[tested].numpy()
    apart = ValidationSpots(spots=gather(together, tested), observed=observed, decode=lambda encoded: encoded)
    one, scores = ended(gather(together, learnt), None, apart)
    by_rows = ValidationSpots(spots=together, rows=tested, observed=observed, decode=lambda encoded: encoded)
    other, other_scores = ended(together, learnt, by_rows)
    assert same(one, other)
    assert scores == other_scores


def test_seeded_numbers_depend_on_seed_and_epoch_alone():
    def drawn(seed, epoch):
        with seeded_rng(seed, epoch) as generator:
            return torch.rand(1).item(), torch.rand(1, generator=generator).item()

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(0, 0), drawn(0, 1), drawn(1, 0), drawn(0, -1)}) == 4


@pytest.mark.gpu
def test_a_run_resumes_on_a_gpu(network, spots):
    from stpredict._train.device import make_fabric

    fabric = make_fabric(FitConfig(accelerator="cuda"))

    def interrupt(state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    left = TrainingState()
    with pytest.raises(KeyboardInterrupt):
        run(network, spots, fabric, held=held_out(spots), state=left, report=interrupt)
    _, found = run(network, spots, fabric, held=held_out(spots), state=left)
    assert [row["epoch"] for row in found.history] == [0, 1, 2, 3]
