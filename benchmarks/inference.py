"""How fast images are predicted, as ratios to plain torch, onnxruntime and OpenVINO, side by side in one run. No Dagster.

    python benchmarks/inference.py                                   # on the CPU, and on CUDA when there is a device
    python benchmarks/inference.py --architecture resnet50 --batch 1 --rounds 3

Backends take turns, round after round, so that other work on the machine meets all of them; the median of the rounds
counts. On the CPU it is the CPU time of this process that is counted, on one thread: other processes cost none of it
(though they do slow caches and memory), and the load of the machine is printed beside. OpenVINO takes part where it is
installed (`pip install '.[openvino]'`). "ours" is what `medai models prepare` chooses, measured anew like the others.

Three parts: images a second and the share of the machine's measured matmul peak; what 20 samples of Monte Carlo dropout
cost beside a single prediction; how long a cold process takes from having imported torch to its first answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np

from medai_pipeline.models.backends import KINDS, Backend, Subject, write
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.models.machine import CPU, Machine, this_machine
from medai_pipeline.records import InputContract

ARCHITECTURES = ("resnet50", "efficientnet_b0", "densenet121")
MOST_UNITS, MOST_MC, MOST_COLD_S = 8.0, 1.1, 3.0
CUDA_GOAL = 2.5
_COLD = """
import sys, time, pathlib, torch
torch.set_num_threads(int(sys.argv[3]))
clock, cpu = time.perf_counter(), time.process_time()
from benchmarks_inference import site_entry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import load
import numpy as np
known = site_entry(sys.argv[1], int(sys.argv[4]))
model = load(known, pathlib.Path(sys.argv[2]), prepared=sys.argv[5] == "prepared")
predict(model, np.zeros((1, *model.image_shape), np.float32))
print(model.backend_name, time.perf_counter() - clock, time.process_time() - cpu)
"""


@dataclass(frozen=True)
class Rate:
    """Seconds an image of each backend, by name."""

    seconds: dict[str, float]

    def times(self, ours: str, other: str) -> float:
        return self.seconds[other] / self.seconds[ours]


def main() -> int:
    arguments = parsed()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    missed: list[str] = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        machine = this_machine(device)
        print(f"{machine.device}: {machine.processor} ({', '.join(machine.units)}); {', '.join(machine.libraries)}")
        print(f"load of the machine {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores; 1 thread of ours")
        peak = matmul_peak(device)
        print(f"measured matmul peak: {peak / 1e9:.0f} GFLOP/s in float32")
        for architecture in arguments.architecture or ARCHITECTURES:
            with tempfile.TemporaryDirectory() as folder:
                missed += one_network(architecture, Path(folder), device, machine, peak, arguments)
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", action="append", help="of timm; repeatable (default: three)")
    parser.add_argument("--batch", type=int, action="append", help="repeatable (default: 1 and 16)")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def site_entry(architecture: str, size: int) -> CatalogEntry:
    """A site's model of this architecture: 14 classes, one channel."""
    known = entry("chest-xray-resnet50")
    return replace(known, name="bench", architecture=architecture, contract=InputContract(size, size))


def one_network(
    architecture: str, folder: Path, device: str, machine: Machine, peak: float, arguments: argparse.Namespace
) -> list[str]:
    from safetensors.torch import save_file

    from medai_pipeline.models.load import load
    from medai_pipeline.models.network import build
    from medai_pipeline.models.prepare import prepare

    known = site_entry(architecture, arguments.size)
    network = settled(build(known), arguments.size)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / known.weights_file)
    begun = time.perf_counter()
    made = prepare(known, folder, device)
    print(
        f"\n{architecture} at {arguments.size}: {made.backend} serves; preparing took {time.perf_counter() - begun:.0f} s"
    )
    model = load(known, folder, device)
    backends = others(known, folder, device, machine)
    work = flops(model.network, model.image_shape)
    missed = []
    for batch in arguments.batch or (1, 16):
        pixels = np.random.default_rng(0).random((batch, *model.image_shape), dtype=np.float32)
        rate = measured({**backends, "ours": model.backend}, pixels, arguments.rounds, device)
        for name, seconds in rate.seconds.items():
            share = work / seconds / peak
            print(
                f"  batch {batch:2}  {name:13} {1e3 * seconds:8.1f} ms  {1 / seconds:7.2f} images/s"
                f"  {rate.times(name, 'eager'):5.2f} x eager  {share:4.0%} of the float32 peak"
            )
        missed += judged(rate, machine, f"{architecture}, batch {batch}", model.backend_name)
    missed += monte_carlo(model, arguments.rounds, architecture, device)
    return missed + (cold(architecture, folder, arguments.size) if device == CPU else [])


def settled(network, size: int):
    """The random network with running statistics of noise, so that its activations are numbers as in a trained one."""
    import torch

    network.train()
    with torch.no_grad():
        for seed in range(2):
            network(torch.rand(2, 1, size // 2, size // 2, generator=torch.Generator().manual_seed(seed)))
    return network.eval()


def others(known: CatalogEntry, folder: Path, device: str, machine: Machine) -> dict[str, Backend]:
    """Every backend that this machine can serve in full precision, and those of reduced precision where it has units.

    "eager" is float32 on a card too; TF32, which torch has by default there, is "channels-last-tf32".
    """
    from medai_pipeline.models.load import load

    model = load(known, folder, device, prepared=False)
    subject = Subject(model.network, model.pooled, model.image_shape, device)
    made: dict[str, Backend] = {}
    for kind in KINDS:
        if kind.hindrance(machine):
            continue
        if kind.wrap:
            made[kind.name] = kind.wrap(subject)
            continue
        path = folder / f"bench{kind.suffix}"
        if not path.is_file():
            write(kind, subject, path)
        assert kind.open is not None
        made[kind.name] = kind.open(path, device)
    return made


def measured(backends: dict[str, Backend], pixels: np.ndarray, rounds: int, device: str) -> Rate:
    clock = time.process_time if device == CPU else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(rounds + 1):
        for name, backend in backends.items():
            start = clock()
            backend(pixels)
            if turn:  # the first is to warm up
                times[name].append((clock() - start) / len(pixels))
    return Rate({name: median(taken) for name, taken in times.items()})


def judged(rate: Rate, machine: Machine, where: str, serves: str) -> list[str]:
    if machine.device != CPU:
        goals = [("eager", CUDA_GOAL)]
    elif machine.has_bf16:
        goals = [("eager", MOST_UNITS)]
    else:
        goals = [("onnxruntime", 0.95)]  # not slower, but for what two measurements of one thing differ by
    if any(other == serves for other, _ in goals):
        twice = rate.times("ours", serves)
        print(
            f"  {where}: ours is {serves} itself; measured twice the two differ by {abs(twice - 1):.0%}, which is noise"
        )
        return []
    missed = []
    for other, goal in goals:
        reached = rate.times("ours", other)
        print(f"  {where}: ours {reached:.2f} x {other} (goal: at least {goal:g})")
        if reached < goal:
            missed.append(f"{where}: {reached:.2f} x {other}, wanted {goal:g}")
    return missed


def monte_carlo(model, rounds: int, architecture: str, device: str) -> list[str]:
    """One image: prediction alone, and with 20 samples of the head."""
    from medai_pipeline.models.infer import predict
    from medai_pipeline.models.uncertainty import sampled, spread_of

    pixels = np.random.default_rng(0).random((1, *model.image_shape), dtype=np.float32)

    def alone(batch: np.ndarray):
        return predict(model, batch)

    def with_samples(batch: np.ndarray):
        return spread_of(sampled(model, batch, predict(model, batch).pooled), True)

    rate = measured({"alone": alone, "sampled": with_samples}, pixels, max(rounds, 5), device)
    ratio = rate.seconds["sampled"] / rate.seconds["alone"]
    print(f"  20 samples of dropout with a prediction: {ratio:.3f} x a prediction (goal: at most {MOST_MC:g})")
    return [f"{architecture}: Monte Carlo {ratio:.2f}"] if ratio > MOST_MC else []


def cold(architecture: str, folder: Path, size: int) -> list[str]:
    """A new process, from having imported torch to its first answer: prepared, and as plain torch."""
    missed = []
    for how in ("prepared", "plain"):
        command = [
            sys.executable,
            "-c",
            _COLD,
            architecture,
            str(folder),
            os.environ["OMP_NUM_THREADS"],
            str(size),
            how,
        ]
        with tempfile.TemporaryDirectory() as beside:
            (Path(beside) / "benchmarks_inference.py").symlink_to(Path(__file__).resolve())
            paths = [beside, str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
            told = [
                subprocess.run(
                    command,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout.split()
                for _ in range(3)
            ]
        wall, cpu = (min(float(line[column]) for line in told) for column in (1, 2))
        print(f"  cold, {how} ({told[0][0]}): first answer {wall:.1f} s after torch, {cpu:.1f} s of CPU")
        if how == "prepared" and cpu > MOST_COLD_S:
            missed.append(f"{architecture}: a cold process needs {cpu:.1f} s")
    return missed


def matmul_peak(device: str) -> float:
    """The most operations a second that a square product reached, of several: in float32, on a card too (no TF32)."""
    import torch

    from medai_pipeline.models.precision import float32

    size = 1536 if device == CPU else 8192
    one, other = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    clock = time.process_time if device == CPU else time.perf_counter

    def product() -> float:
        start = clock()
        torch.mm(one, other)
        if device != CPU:
            torch.cuda.synchronize()
        return clock() - start

    with float32(device):
        return 2 * size**3 / min(product() for _ in range(8))


def flops(network, shape: Sequence[int]) -> float:
    """Operations of one image: twice the multiplications of convolutions and linear layers."""
    import torch

    total = 0.0

    def count(layer, given, result) -> None:
        nonlocal total
        weights = layer.weight
        places = result[0].numel() / result.shape[1]
        total += 2 * weights.numel() * places

    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network(torch.zeros(1, *shape, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    raise SystemExit(main())
