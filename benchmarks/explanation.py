"""What explanations cost, as ratios to one prediction and to the package grad-cam, side by side in one run.

    python benchmarks/explanation.py                                  # resnet18 at 224: a minute or two of CPU time
    python benchmarks/explanation.py --architecture resnet50 --size 512 --scorecam-share 0.05

All times are CPU time of this process on one thread, the least of several rounds: other work on the machine does not
count. The library's Score-CAM asks the network once for each feature map; with `--scorecam-share` less than 1 it is run
on that share of the maps and its time multiplied up, which the output says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

GOALS = {
    "prediction with Grad-CAM of the top 3 to prediction": ("at most", 1.05),
    "grad-cam to ours, three classes": ("at least", 8.0),
    "grad-cam's Score-CAM to ours": ("at least", 5.0),
    "memory after 1000 images to after 100": ("at most", 1.02),
}


def main() -> int:
    arguments = parsed()
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ratios = {**speed(arguments.architecture, arguments.size, arguments.rounds, arguments.scorecam_share)}
    ratios["memory after 1000 images to after 100"] = memory(arguments.images)
    missed = 0
    for name, (way, goal) in GOALS.items():
        reached = ratios[name] <= goal if way == "at most" else ratios[name] >= goal
        missed += not reached
        print(f"{name}: {ratios[name]:.3f} (goal: {way} {goal:g}){'' if reached else '  MISSED'}")
    return 1 if missed else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scorecam-share", type=float, default=0.25)
    parser.add_argument("--images", type=int, default=1000)
    return parser.parse_args()


def speed(architecture: str, size: int, rounds: int, share: float) -> dict[str, float]:
    import timm
    import torch

    from medai_pipeline.explain.cam import class_map
    from medai_pipeline.explain.scorecam import PASSES, score_maps

    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=14, in_chans=1).eval()
    image = torch.rand(1, 1, size, size)
    head = model.get_classifier().weight.detach().numpy()

    def predict() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            features = model.forward_features(image)
            return features[0].numpy(), model.get_classifier()(features.mean((2, 3)))[0].numpy()

    def ours() -> None:
        features, logits = predict()
        for index in np.argsort(-logits)[:3]:
            class_map(features, head[index])

    def library() -> None:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        _, logits = predict()
        for index in np.argsort(-logits)[:3]:
            with GradCAM(model, [last]) as explainer:
                explainer(image, [ClassifierOutputTarget(int(index))])

    def score(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    from medai_pipeline.explain.layers import target_layers

    last = model.get_submodule(target_layers(model, image)[0].name)
    features, _ = predict()
    alone, with_maps, with_library = cpu(predict, rounds * 3), cpu(ours, rounds * 3), cpu(library, rounds)
    grouped = cpu(lambda: score_maps(image[0].numpy(), features, score), 1)
    exact = cpu(lambda: library_scorecam(model, last, image, share), 1) / share
    print(f"{architecture} at {size}: prediction {alone * 1e3:.0f} ms, with maps {with_maps * 1e3:.0f} ms, by grad-cam")
    print(f"  {with_library * 1e3:.0f} ms; Score-CAM {grouped:.1f} s in {PASSES} passes, by grad-cam {exact:.1f} s in")
    print(f"  {len(features)} passes at batch 16{f', {share:.0%} of them run and multiplied up' if share < 1 else ''}")
    return {
        "prediction with Grad-CAM of the top 3 to prediction": with_maps / alone,
        "grad-cam to ours, three classes": with_library / with_maps,
        "grad-cam's Score-CAM to ours": exact / grouped,
    }


def library_scorecam(model, layer, image, share: float) -> None:
    """The package's Score-CAM on the first `share` of the layer's maps."""
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def some(output):
        return output[:, : max(1, round(share * output.shape[1]))]

    with ScoreCAM(model, [layer], reshape_transform=some) as explainer:
        explainer.batch_size = 16
        explainer(image, [ClassifierOutputTarget(0)])


def cpu(work: Callable[[], object], rounds: int) -> float:
    """Least CPU seconds of some rounds, after one to warm up where there are several."""
    times = []
    for _ in range(rounds + (rounds > 1)):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def memory(images: int) -> float:
    """Resident memory after `images` images through prediction, maps, regions and picture, to that after a tenth."""
    from medai_pipeline.dicom.normalize import place
    from medai_pipeline.explain.cam import class_map
    from medai_pipeline.explain.overlay import overlay
    from medai_pipeline.explain.regions import regions
    from medai_pipeline.models.catalog import entry
    from medai_pipeline.models.infer import predict
    from medai_pipeline.models.load import load

    model = load(entry("demo-brain-mr"))
    contract, early = model.entry.contract, 0
    rng = np.random.default_rng(0)
    spot = place(256, 256, contract)
    for number in range(images):
        image = rng.random((1, 1, contract.height, contract.width), dtype=np.float32)
        values = class_map(predict(model, image).features[0], model.head_weight[0])
        found = regions(values, spot, image.shape[2:])
        overlay((255 * image[0, 0]).astype(np.uint8), values, spot, image.shape[2:], regions=found)
        if number == images // 10:
            early = resident()
    print(f"memory: {early >> 20} MiB after {images // 10} images, {resident() >> 20} MiB after {images}")
    return resident() / early


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    raise SystemExit(main())
