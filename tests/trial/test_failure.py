import torch

from toprung.trial.failure import describe_failure
from toprung.trial.run import is_process_broken


def test_a_lack_of_gpu_memory_is_a_cause_of_its_own_and_leaves_the_process_usable():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert describe_failure(error)["cause"].startswith("the GPU's memory ran out (peak of PyTorch's tensors: ")
    assert not is_process_broken(error)


def test_other_failures_name_their_type():
    assert describe_failure(RuntimeError("a\nb"))["cause"] == "RuntimeError: a"
