import pytest
import torch

from toprung.vision import build_schedule


def rates(**settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, num_epochs=10, steps_per_epoch=4, **settings)
    found = []
    for _ in range(40):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_warm_up_rises_linearly_and_then_the_cosine_falls_to_zero():
    found = rates(schedule="cosine", warmup_epochs=2)
    assert found[:8] == pytest.approx([(step + 1) / 9 for step in range(8)])
    assert found[8] == 1.0
    assert found[8:] == sorted(found[8:], reverse=True)
    assert found[-1] == pytest.approx(0, abs=0.01)


def test_after_the_warm_up_a_constant_rate_stays():
    assert set(rates(schedule="constant", warmup_epochs=0.5)[2:]) == {1.0}


def test_without_warm_up_the_schedules_are_torchs_own():
    assert rates(schedule="cosine", warmup_epochs=0)[0] == 1.0
    assert rates(schedule="onecycle", warmup_epochs=3) == rates(schedule="onecycle")
