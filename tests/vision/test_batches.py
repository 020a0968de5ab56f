import torch

from toprung.vision import ImageSplit, batches, num_batches


def split_of(num):
    labels = torch.arange(num)
    return ImageSplit(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels)


def test_an_epoch_has_every_image_once_with_its_own_label():
    images, labels = (torch.cat(parts) for parts in zip(*batches(split_of(103), batch_size=32), strict=True))
    assert sorted(labels.tolist()) == list(range(103))
    assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_the_number_of_batches_is_as_announced_and_sizes_differ_by_at_most_one():
    for num, batch_size in ((103, 32), (96, 32), (97, 32), (5, 32), (1, 32), (5, 1)):
        split = split_of(num)
        sizes = [len(labels) for _, labels in batches(split, batch_size=batch_size)]
        assert len(sizes) == num_batches(split, batch_size=batch_size)
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


def test_the_global_seed_determines_the_order():
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(torch.cat([labels for _, labels in batches(split_of(50), batch_size=8)]).tolist())
    assert orders[0] == orders[1] != orders[2]
