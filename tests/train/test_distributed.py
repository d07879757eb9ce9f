"""Two processes train as one, also if one of them has less memory, and `fit` saves once."""

from __future__ import annotations

import json
import socket

import pytest
import torch

TRAIN = """
import json, os
from pathlib import Path
import torch
from stpredict._train.config import FitConfig
from stpredict._train.device import make_fabric
from stpredict._train.loop import TrainingState, seeded_rng, train
from stpredict.models import SpotBatch, build, config

def weights(**several):
    options = FitConfig(n_epochs=2, batch_size=8, lr=3e-3, accelerator="cpu", precision="32-true", flips=False,
                        stain_jitter=0, brightness_jitter=0, **several)
    fabric = make_fabric(options)
    generator = torch.Generator().manual_seed(0)
    spots = SpotBatch(patches=torch.randint(0, 255, (24, 3, 3, 16, 16), generator=generator, dtype=torch.uint8),
                      xy_um=torch.zeros(24, 2), slide=torch.arange(24) % 2,
                      targets=torch.randn(24, 3, generator=generator))
    shape = {"dim": 12, "depth": 1, "heads": 2, "size_px": 16, "patch_size": 8, "mask_rate": 0.0}
    with seeded_rng(0, -1):
        model = build(config("m2ost", 3, shape))
    tried = []

    def out_of_memory_on_the_second(head, inputs, result):
        tried.append(len(inputs[0]))
        if fabric.world_size == 2 and fabric.global_rank == 1 and tried[-1] > 3:
            raise torch.OutOfMemoryError("out of memory")

    model.head.register_forward_hook(out_of_memory_on_the_second)
    train(model, spots, None, options, fabric, state=TrainingState(), report=lambda state: None)
    return {"weights": torch.cat([value.flatten() for value in model.state_dict().values()]).tolist(), "tried": tried}
"""

FIT = """
import stpredict as stp

torch.set_num_threads(1)
trained = weights(devices=2, strategy="ddp")
sdata = stp.datasets.synthetic(n_slides=3, n_side=5, um_per_px=8.0)
config = stp.tl.FitConfig(accelerator="cpu", devices=2, strategy="ddp", n_epochs=2, precision="32-true")
shape = {"dim": 12, "depth": 1, "heads": 2, "size_px": 16, "patch_size": 8}
predictor = stp.tl.fit(sdata, "m2ost", config=config, model_options=shape, save_dir="../model")
trained["same"] = predictor.hash == stp.tl.Predictor.load("../model").hash
Path(f"../rank-{os.environ['RANK']}.json").write_text(json.dumps(trained))
"""


AS_TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0,
}  # fmt: skip
"""What `torchrun --nproc-per-node 2` tells its processes, besides their numbers and a port."""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_train_as_one(python, tmp_path):
    """Equal weights, with steps added up where memory runs out; each process returns when the predictor is saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        folder = tmp_path / str(rank)
        folder.mkdir()
        given = {**AS_TORCHRUN, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
        setting = "import os, warnings; warnings.simplefilter('error', UserWarning)\n"
        setting += f"os.environ.update({ {name: str(value) for name, value in given.items()} })\n"
        processes.append(python(setting + TRAIN + FIT, folder))
    for rank, process in enumerate(processes):
        process.join()
        said = (tmp_path / str(rank) / "stderr").read_text()
        assert process.exitcode == 0, said
        assert "could not be written" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "model", "rank-0.json", "rank-1.json"]
    two, other = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert two["same"]
    assert other["same"]
    namespace = {}
    exec(TRAIN, namespace)
    one = namespace["weights"]()
    assert one["tried"] == [8] * 6
    assert two["tried"] == [4, *[2] * 12]  # tried by both at first, then halved by both, since one has no more memory
    torch.testing.assert_close(torch.tensor(two["weights"]), torch.tensor(one["weights"]), atol=1e-5, rtol=1e-4)
