"""Started by torchrun: trains in a trainer on this rank, and writes down what it saw."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

from tests.trainers.loops import BATCH, HELD, TRAIN, Run, start

GLOBAL_BATCH = 2 * BATCH
NUM_SAMPLES = 3 * GLOBAL_BATCH  # an epoch of three steps
EPOCHS = 4


def with_lightning(mode: str, folder: Path) -> Run:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from tests.trainers.test_lightning import Module, fit

    run = start(num_samples=NUM_SAMPLES)  # before Lightning has started torch.distributed
    settings: dict[str, Any] = {
        "strategy": "ddp",
        "devices": 2,
        "use_distributed_sampler": mode == "wrapped",
    }
    if mode == "split hold-out":

        class Split(Module):
            def val_dataloader(self) -> DataLoader:
                return DataLoader(HELD, 50, sampler=DistributedSampler(HELD, shuffle=False))

        settings |= {"module": Split, "held": None}
    if mode == "resume":
        saver = ModelCheckpoint(folder, filename="at", every_n_train_steps=5)
        fit(run, EPOCHS, max_steps=5, saver=saver, **settings)
        again = start(num_samples=NUM_SAMPLES)
        fit(again, EPOCHS, ckpt_path=folder / "at.ckpt", **settings)
        again.order = run.order + again.order
        return again
    fit(run, EPOCHS, **settings)
    return run


def with_transformers(mode: str, folder: Path) -> Run:
    from tests.trainers.test_transformers import make

    settings: dict[str, Any] = {"ddp_backend": "gloo"}
    if mode == "parts of batches":
        settings["per_device_train_batch_size"] = GLOBAL_BATCH
        settings["accelerator_config"] = {"split_batches": True}
    if mode == "from rank 0":
        settings["accelerator_config"] = {"dispatch_batches": True}
    run = start(num_samples=NUM_SAMPLES)
    if mode == "resume":
        saves = {"save_strategy": "steps", "save_steps": 5}
        make(run, folder, EPOCHS, max_steps=5, **settings, **saves).train()
        again = start(num_samples=NUM_SAMPLES)
        make(again, folder, EPOCHS, **settings).train(resume_from_checkpoint=True)
        again.order = run.order + again.order
        return again
    make(run, folder, EPOCHS, **settings).train()
    return run


def loop(run: Run, loader: Any, model: Any, optimizer: Any, backward: Any, observe: Any) -> Run:
    for _ in range(EPOCHS):
        for data in loader:
            backward(run.balancer.loss(model(data["points"]), data["labels"]))
            optimizer.step()
            optimizer.zero_grad()
            run.order += data["indices"].tolist()
        with torch.no_grad():
            observe()
        run.balancer.step()
    return run


def with_accelerate(mode: str, folder: Path) -> Run:
    """A loop of one's own over a prepared loader."""
    from accelerate import Accelerator, DataLoaderConfiguration

    from equipoise.trainers import GlobalOrder

    parts, dispatch = mode == "parts of batches", mode == "from rank 0"
    how = DataLoaderConfiguration(split_batches=parts, dispatch_batches=dispatch)
    accelerator = Accelerator(cpu=True, dataloader_config=how)
    run = start(num_samples=NUM_SAMPLES)
    size = GLOBAL_BATCH if parts else BATCH
    if mode == "unprepared":
        loader = DataLoader(TRAIN, BATCH, sampler=run.balancer.sampler)
    else:
        loader = accelerator.prepare(DataLoader(TRAIN, size, sampler=GlobalOrder(run.balancer)))
    held = accelerator.prepare(DataLoader(HELD, 50))
    model, optimizer = accelerator.prepare(
        run.model, torch.optim.SGD(run.model.parameters(), lr=0.5)
    )

    def observe() -> None:
        for data in held:
            both = model(data["points"]), data["labels"]
            seen = accelerator.gather_for_metrics(both)
            if accelerator.is_main_process:
                run.balancer.observe(*seen)

    return loop(run, loader, model, optimizer, accelerator.backward, observe)


def with_fabric(mode: str, folder: Path) -> Run:
    from lightning.fabric import Fabric

    from equipoise.trainers import GlobalOrder

    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    run = start(num_samples=NUM_SAMPLES)
    model, optimizer = fabric.setup(run.model, torch.optim.SGD(run.model.parameters(), lr=0.5))
    split = mode == "global order"
    sampler = GlobalOrder(run.balancer) if split else run.balancer.sampler
    loader = DataLoader(TRAIN, BATCH, sampler=sampler)
    loader = fabric.setup_dataloaders(loader, use_distributed_sampler=split)

    def observe() -> None:
        for data in DataLoader(HELD, 50) if fabric.global_rank == 0 else ():
            run.balancer.observe(run.model(data["points"]), data["labels"])

    return loop(run, loader, model, optimizer, fabric.backward, observe)


MODES = {
    "accelerate": ["whole batches", "parts of batches", "from rank 0", "unprepared"],
    "fabric": ["global order", "own order"],
    "transformers": ["whole batches", "parts of batches", "from rank 0", "resume"],
    "lightning": ["whole hold-out", "split hold-out", "resume", "wrapped"],
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=r".*is-it-wired-right")
    out, trainers = Path(sys.argv[1]), sys.argv[2:]
    found: dict[str, Any] = {}
    for trainer in trainers:
        for mode in MODES[trainer]:
            key = f"{trainer}, {mode}"
            try:
                run = globals()[f"with_{trainer}"](mode, out / key)
                found[key] = {"order": run.order, "log_weights": run.log_weights}
            except (ValueError, UserWarning) as error:
                found[key] = {"error": str(error)}
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # under load a thread of gloo may outlive the interpreter, which aborts then
