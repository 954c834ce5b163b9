"""train_run: a network trained with a Balancer, from data to report, in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from equipoise.balancer import Balancer
from equipoise.mining import LoaderMiner
from equipoise.checkpoint import load
from equipoise.report import make_report
from equipoise.training.batches import Prepared, as_input, as_tensor
from equipoise.training.data import Data
from equipoise.training.figures import class_figures, label_figures
from equipoise.training.nets import make_net, scaling_of, start_at_prevalence
from equipoise.training.saving import check_same, plain, read_json, save_parts, versions, write_json
from equipoise.training.settings import Settings, make_balancer

__all__ = ["Progress", "train_run"]


@dataclass(frozen=True)
class Progress:
    """How far a run is: `batch` of `batches` of an epoch; at its end `row`, its line of history."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    row: dict[str, Any] | None = None


def train_run(
    data: Data,
    out: str | Path,
    settings: Settings | None = None,
    *,
    reading: dict[str, Any] | None = None,
    resume: bool = False,
    baseline: list[float] | None = None,
    progress: Callable[[Progress], Any] = lambda now: None,
) -> dict[str, Any]:
    """Trains a network on `data`, fits the decision on the hold-out, tests; returns the record.

    The network is judged, and kept, with its weights averaged over steps (decay at most .99).
    `out` gets `run.json` (the record: settings, versions, history, results), `model.pt` (see
    `load_model`), `balancer.pt` (its `state_dict`), `report.json` and `report.html`. While the run
    goes on, `checkpoint.pt` is its state at the end of the last epoch.

    Args:
        data: see `read_data`.
        out: folder of the run; it is made.
        settings: of the training.
        reading: how `data` was read, for the record.
        resume: go on at the end of the last whole epoch of a run of the same settings and data, if
            there is one in `out`. On a CPU the results are those of a run that was never stopped.
        baseline: recalls of a plain run, to compare with in the report.
        progress: is told of every batch, and of every epoch.

    Raises:
        FileExistsError: `out` holds a run, and `resume` is not given.
        ValueError: settings that do not fit the data; a run of others; training that diverged.
    """
    out, settings = Path(out), settings or Settings()
    path = out / "run.json"
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"Expected out to be a folder, but {out} is something else.")
    if path.exists():
        if not resume:
            raise FileExistsError(
                f"Expected out to be a new folder, but {out} holds a run: go on with it by "
                "--resume, or choose another."
            )
        record = read_json(path)
        check_same(record, settings.to_dict(), out)
        if record["state"] == "finished":
            return record
    chosen = settings.for_data(data)
    began = time.perf_counter()
    devices = [torch.device(chosen.device)] if chosen.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(chosen.seed)
        run = _Run(data, chosen)
        out.mkdir(parents=True, exist_ok=True)
        record = {
            "format": 1,
            "state": "running",
            "data": str(data.path),
            "reading": reading or {},
            "settings": settings.to_dict(),
            "chosen": chosen.to_dict(),
            "versions": versions(),
            "examples": {
                "training": len(data.train), "hold-out": len(data.held), "test": len(data.test),
            },
            "multilabel": data.targets.multilabel,
            "names": data.names,
        }  # fmt: skip
        checkpoint = out / "checkpoint.pt"
        seconds = 0.0
        if resume and checkpoint.exists():
            seconds = run.load(load(checkpoint, chosen.device), checkpoint)
        write_json(path, {**record, "history": run.history, "results": None, "seconds": seconds})
        for epoch in range(len(run.history), chosen.epochs):
            run.train_epoch(epoch, progress)
            elapsed = seconds + time.perf_counter() - began
            save_parts(checkpoint, **run.state(), seconds=elapsed)
            write_json(path, {**record, "history": run.history, "results": None,
                              "seconds": elapsed})  # fmt: skip
        results, logits = run.results()
        seconds += time.perf_counter() - began
        save_parts(out / "model.pt", **run.model_state())
        save_parts(out / "balancer.pt", balancer=run.balancer)
        record |= {"state": "finished", "history": run.history, "results": results}
        record |= {"seconds": seconds}
        record = plain(record)
        write_json(path, record)
        checkpoint.unlink(missing_ok=True)
        report = make_report(
            run.balancer,
            logits,
            as_tensor(data.targets_of(data.test)),
            baseline=baseline,
            seconds=run.seconds(),
            title=data.path.name,
            names=data.names,
        )
        write_json(out / "report.json", report.to_dict())
        with suppress(ImportError):  # without matplotlib there is no page
            report.save_html(out / "report.html")
    return record


class _Run:
    """Everything that changes while a network is trained."""

    def __init__(self, data: Data, settings: Settings) -> None:
        self.data, self.settings = data, settings
        self.targets = data.targets_of(data.train)
        self.held = data.targets_of(data.held)
        self.balancer: Balancer = make_balancer(self.targets, settings)
        rng = np.random.default_rng(0)
        sample = data.inputs.sample(np.sort(rng.permutation(data.train)[:5000]))
        shift, scale, kind = scaling_of(sample, data.images)
        self.net: dict[str, Any] = {
            "name": settings.net,
            "shape": list(data.inputs.shape),
            "outputs": self.targets.num_classes,
            "width": settings.width,
            "kind": kind,
            "multilabel": self.targets.multilabel,
        }
        self.model = make_net(**self.net)
        scaled: Any = self.model[0]
        scaled.shift.copy_(shift.reshape_as(scaled.shift))
        scaled.scale.copy_(scale.reshape_as(scaled.scale))
        if self.targets.multilabel:
            start_at_prevalence(self.model, self.balancer)
        self.model.to(settings.device)
        size = settings.batch_size or 1
        alone = len(self.balancer.sampler) % size == 1  # batch norm cannot learn from one example
        self.batches = data.inputs.batches(data.train, size, self.balancer, drop_last=alone)
        if not len(self.batches):
            raise ValueError(f"Expected two examples to train on, but got {len(data.train)}.")
        self.held_batches = data.inputs.batches(data.held, 1000)
        decay = max(0.0, min(0.99, 1 - 3 / len(self.batches)))
        self.averaged = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), settings.lr, weight_decay=1e-2)
        self.history: list[dict[str, Any]] = []

    def train_epoch(self, epoch: int, progress: Callable[[Progress], Any]) -> None:
        """Train an epoch, observe the hold-out, step; keyed by seed and epoch alone."""
        began, settings = time.perf_counter(), self.settings
        key = int(np.random.SeedSequence([settings.seed, epoch]).generate_state(1)[0])
        torch.manual_seed(key)  # dropout
        inputs = Prepared(self.batches, self.targets, settings.device, bool(settings.flip), key)
        keep = getattr(self.balancer.mining, "keep", 1.0)
        mined = isinstance(self.balancer.mining, LoaderMiner)
        steps = math.ceil(len(inputs) * keep) if mined else len(inputs)
        total, count = torch.zeros((), device=settings.device), 0
        self.model.train()
        progress(Progress(epoch, settings.epochs, 0, steps))
        for x, targets, indices in self.balancer.mine(inputs, self.model):
            if len(x) == 1:
                continue  # the rest of a mined epoch
            rate = _rate((epoch + min(count / steps, 1)) / settings.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr * rate
            with _autocast(settings):
                logits = self.model(x)
            loss = self.balancer.loss(logits.float(), targets, indices)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.averaged.update_parameters(self.model)
            total += loss.detach()
            count += 1
            progress(Progress(epoch, settings.epochs, min(count, steps), steps))
        trained = time.perf_counter()
        logits = self.predict(self.held_batches)
        if not torch.isfinite(logits).all():
            raise ValueError(
                f"Expected finite logits after epoch {epoch + 1}, but training diverged: try a "
                f"smaller lr than {settings.lr}."
            )
        self.balancer.observe(logits, as_tensor(self.held))
        self.balancer.step()
        row = {**self.balancer.history[-1], "loss": total.item() / max(count, 1)}
        now = time.perf_counter()
        row |= {"seconds": now - began, "seconds_holdout": now - trained}
        self.history.append(row)
        progress(Progress(epoch, settings.epochs, steps, steps, row))

    @torch.no_grad()
    def predict(self, batches: Any) -> Tensor:
        """Logits of the averaged network, in order, on the CPU."""
        self.averaged.eval()
        with _autocast(self.settings):
            parts = [
                self.averaged(as_input(x, self.settings.device)).float().cpu() for x, _ in batches
            ]
        return torch.cat(parts)

    def results(self) -> tuple[dict[str, Any], Tensor]:
        """Figures on the test examples, as trained and decided, and the test logits."""
        balancer, tested = self.balancer, self.data.targets_of(self.data.test)
        logits = self.predict(self.data.inputs.batches(self.data.test, 1000))
        held = self.predict(self.held_batches)
        balancer.fit_decision(held, as_tensor(self.held), self.settings.objective)
        decided = balancer.decide(logits)
        if tested.multilabel:
            found = {
                "as_trained": label_figures(logits, logits > 0, tested),
                "decided": label_figures(balancer.correct(logits), decided, tested),
            }
        else:
            found = {
                "as_trained": class_figures(logits.argmax(1), tested),
                "decided": class_figures(decided, tested),
            }
        return found, logits

    def state(self) -> dict[str, Any]:
        """Parts of a checkpoint at the end of an epoch."""
        return {
            "net": self.net,
            "model": self.model,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "balancer": self.balancer,
            "history": self.history,
        }

    def seconds(self) -> dict[str, float]:
        """What took how long, over all epochs."""
        held = sum(row["seconds_holdout"] for row in self.history)
        return {"training": sum(row["seconds"] for row in self.history) - held, "hold-out": held}

    def load(self, state: dict[str, Any], path: Path) -> float:
        """Take over what `state` gave; the seconds it took."""
        if state.get("net") != self.net:
            raise ValueError(
                f"Expected {path} to be of the network {self.net}, but it is of {state.get('net')}."
            )
        self.balancer.load_state_dict(state["balancer"])  # refuses other targets
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        return float(state["seconds"])

    def model_state(self) -> dict[str, Any]:
        """Parts of `model.pt`: the averaged network."""
        state = {name: value.cpu() for name, value in self.averaged.module.state_dict().items()}
        return {"net": self.net, "model": state}


def _rate(done: float) -> float:
    """Of the learning rate: up over a fifth of the run, then down to 0 as a cosine."""
    if done < 0.2:
        return 0.04 + 0.96 * done / 0.2
    return 0.5 + 0.5 * math.cos(math.pi * (done - 0.2) / 0.8)


def _autocast(settings: Settings) -> Any:
    kind = torch.device(settings.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=bool(settings.bf16))
