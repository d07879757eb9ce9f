"""Parts of a batch, and how many spots fit a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stpredict._train.batches import BatchLimit, device_batches, gather, is_out_of_memory, to_device

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize(("size", "n", "wanted"), [
    (4, 8, [(0, 4), (4, 8)]), (4, 9, [(0, 3), (3, 6), (6, 9)]), (100, 5, [(0, 5)]), (1, 2, [(0, 1), (1, 2)]),
])  # fmt: skip
def test_parts_are_about_equal_and_no_larger_than_the_limit(size, n, wanted):
    assert [(part.start, part.stop) for part in BatchLimit(size).parts(n)] == wanted


@pytest.mark.parametrize(("size", "tried", "left"), [(64, 64, 32), (64, 7, 4), (64, 2, 1)])
def test_half_of_what_was_tried_is_left(size, tried, left):
    limit = BatchLimit(size)
    limit.shrink(tried, FULL)
    assert limit.size == left


def test_one_spot_that_does_not_fit_is_an_error():
    with pytest.raises(
        MemoryError, match=r"does not hold the network and a single spot \(CUDA out of memory.*`device`"
    ):
        BatchLimit(8).shrink(1, FULL)


@pytest.mark.parametrize(("error", "full"), [
    (FULL, True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"), True),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
])  # fmt: skip
def test_which_errors_are_of_memory(error, full):
    assert is_out_of_memory(error) is full


def test_other_errors_change_nothing():
    limit = BatchLimit(8)
    assert not limit.shrink(4, RuntimeError("shapes"))
    assert limit.size == 8


def test_the_cpu_raises_what_is_understood():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_a_limit_by_device_unless_one_is_given():
    assert BatchLimit.of(5, torch.device("cpu")).size == 5
    assert 8 <= BatchLimit.of(None, torch.device("cpu")).size <= 64
    assert BatchLimit.of(None, torch.device("cuda")).size >= 256


def test_gather_keeps_tensors_together(spots):
    batch = spots()
    index = torch.tensor([5, 0, 5])
    some = gather(batch, index)
    assert torch.equal(some.patches, batch.patches[index])
    assert torch.equal(some.targets, batch.targets[index])
    assert some.counts is None
    assert gather(replace(batch, targets=None, counts=batch.targets), index).targets is None


def test_a_slice_copies_nothing(spots):
    batch = spots()
    some = gather(batch, slice(3, 5))
    assert torch.equal(some.targets, batch.targets[3:5])
    assert some.patches.data_ptr() == batch.patches[3].data_ptr()


def test_batches_are_sent_as_bytes(spots):
    batch = spots()
    first, second = device_batches(batch, [torch.tensor([1, 2]), torch.tensor([0])], torch.device("cpu"))
    assert torch.equal(first.patches, batch.patches[1:3])
    assert (second.patches.dtype, len(second)) == (torch.uint8, 1)


@pytest.mark.gpu
def test_what_is_sent_to_a_gpu_is_all_there(spots):
    batch = spots(size_px=64)
    for _ in range(20):
        there = to_device(batch, torch.device("cuda", 0))
        assert there.patches.is_cuda
        assert torch.equal(there.patches.cpu(), batch.patches)
        assert torch.equal(there.targets.cpu(), batch.targets)
