"""A trial that requests a GPU on a machine where torch has none."""

import pytest
import torch

from toprung.session import TrainingFailed
from toprung.trial.run import check_gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_trial_without_the_gpu_it_asks_for_fails_with_torchs_reason():
    with pytest.raises(TrainingFailed, match=r"^resources.gpus is 0.5, but torch has no GPU on .+ \(.+\w\)$"):
        check_gpu(0.5)
