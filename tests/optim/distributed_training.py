"""What each process of ``test_sgd_distributed`` runs: every case, results as JSON."""

from __future__ import annotations

import copy
import datetime
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import torch_mlcalc as mlc

Options = dict[str, Any]

#: Kind of parallelism and options of SGD, by name.
CASES: dict[str, tuple[str, Options]] = {
    "ddp": ("ddp", {}),
    "ddp with views of buckets, flat": ("ddp", dict(flat=True)),
    "ddp, Polyak": ("ddp", dict(step_size=mlc.PolyakStep())),
    "fsdp": ("fsdp", {}),
    "fsdp, foreach": ("fsdp", dict(foreach=True)),
    "fsdp, Armijo": ("fsdp", dict(step_size=mlc.ArmijoStep())),
    "mixed": ("mixed", {}),
    "mixed, foreach": ("mixed", dict(foreach=True)),
}


def parallel(kind: str, model: nn.Sequential) -> nn.Module:
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    # In the mixed case the last layer stays a plain module with plain parameters.
    return fully_shard(model, mesh=mesh) if kind == "fsdp" else model


def averaged(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor.div_(2)


def run(kind: str, options: Options, rank: int) -> list[float]:
    """Train, and return all parameters and all momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    features = torch.randn(8, 6, dtype=torch.float64)
    target = torch.randn(8, 4, dtype=torch.float64)
    trained: nn.Module = model
    if kind != "single":
        features, target = features[rank::2], target[rank::2]
        trained = parallel(kind, model)
    optimizer = mlc.SGD(
        trained.parameters(), 0.1, momentum=0.9, weight_decay=0.01, **options
    )

    def closure() -> Tensor:
        # With flat, gradients that are set to zero become views of the block.
        optimizer.zero_grad(set_to_none=not options.get("flat"))
        loss = (trained(features) - target).square().mean()
        loss.backward()
        if kind == "mixed":
            for param in model[2].parameters():
                averaged(param.grad)
        return loss.detach() if kind == "single" else averaged(loss.detach())

    for step in range(5):
        if "step_size" in options:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        if step == 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
    tensors = [*model.parameters(), *buffers]
    whole = [t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors]
    return [number for tensor in whole for number in tensor.flatten().tolist()]


def all_cases(choose: Callable[[str], str], rank: int) -> dict[str, list[float]]:
    return {
        name: run(choose(kind), options, rank)
        for name, (kind, options) in CASES.items()
    }


def main(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    found = all_cases(lambda kind: kind, rank)
    alone = all_cases(lambda kind: "single", rank)
    results = json.dumps({"found": found, "alone": alone})
    (folder / f"{rank}.json").write_text(results, encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
