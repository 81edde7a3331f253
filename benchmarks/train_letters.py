"""Makes `medai_pipeline/burned_in/letters.onnx`, the small network that says where letters could stand.

    pip install onnx
    python benchmarks/train_letters.py letters.onnx [--pictures 27000] [--epochs 17] [--data FOLDER]

Crops of pictures without text (phantoms, and with --data three of four real films and brain MR of that folder) get lines of
invented text in many fonts, sizes, directions and contrasts, or rules, ticks and frames, which are none. Cells of 8 x 8
pixels that lie in a line are to be told from the rest. What is left out here (every fourth real picture, the real DICOM
files, other seeds of the phantoms) is what `burned_in_text.py` and a test may measure on. The file that is there now was
trained in two rounds, 8 epochs over 9,000 crops and 9 over 27,000, so a new one will not be the same to the bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medai_pipeline.burned_in.letters import CELL
from medai_pipeline.burned_in.pictures import picture_of
from medai_pipeline.dicom.image import Image
from medai_pipeline.phantoms.burned_in_fonts import fonts, lettering
from medai_pipeline.phantoms.burned_in_images import make_burned_in
from medai_pipeline.phantoms.burned_in_words import identity_lines, invent_person
from medai_pipeline.phantoms.studies import make_study, to_bytes

SIDE = 160  # pixels of a crop
SEED = 5000
SHARES = {"chest-ct": 0.2, "brain-mr": 0.15, "chest-xray": 0.12, "ultrasound": 0.05, "mri": 0.33, "cxr": 0.15}
BATCH, RATE = 48, 4e-3
IGNORED = 2  # the label of a cell that is of a line in part


def grounds(data: Path | None) -> dict[str, list[np.ndarray]]:
    """Pictures without text by kind, uint8."""
    found: dict[str, list[np.ndarray]] = {}
    for kind, seeds, side in (("chest-ct", 12, 512), ("brain-mr", 12, 512), ("chest-xray", 30, 1024)):
        studies = (make_study(kind, SEED + n, rows=side >> n % 2, columns=side >> n % 2) for n in range(seeds))
        found[kind] = [shown(dataset) for study in studies for dataset in study.datasets[::2]]
    sounds = (make_burned_in("ultrasound", SEED + n, identity=False, markers=False) for n in range(20))
    found["ultrasound"] = [shown(made.dataset) for made in sounds]
    for name in ("mri", "cxr") if data else ():
        files = sorted((data / name).rglob("*.png")) if data else []
        read = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for number, path in enumerate(files) if number % 4)
        found[name] = [picture for picture in read if picture is not None]
    return {kind: pictures for kind, pictures in found.items() if pictures}


def shown(dataset: Any) -> np.ndarray:
    image = Image.of(to_bytes(dataset))
    picture = picture_of(image, image.stored(1))
    return picture if picture.ndim == 2 else picture.max(axis=2)


def examples(found: dict[str, list[np.ndarray]], count: int, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """(crop, label of each cell): 1 in a line, 0 outside, IGNORED between."""
    kinds = list(found)
    shares = np.array([SHARES[kind] for kind in kinds])
    for _ in range(count):
        pictures = found[kinds[rng.choice(len(kinds), p=shares / shares.sum())]]
        crop = cropped(pictures[rng.integers(len(pictures))], rng)
        covered = np.zeros((SIDE, SIDE), np.float32)
        if rng.random() < 0.15:
            draw_shapes(crop, rng)
        for _ in range(int(rng.random() < 0.55) * (1 + int(rng.random() < 0.3))):
            write_line(crop, covered, rng)
        cells = cv2.resize(covered, (SIDE // CELL, SIDE // CELL), interpolation=cv2.INTER_AREA)
        yield worn(crop, rng), np.where(cells > 0.5, 1, np.where(cells < 0.05, 0, IGNORED)).astype(np.uint8)


def cropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of the picture at a size of its own, turned, with other tones and noise."""
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
    side = int(SIDE / scale)
    missing = [max(0, side - size) for size in picture.shape]
    picture = cv2.copyMakeBorder(picture, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
    y, x = (int(rng.integers(0, size - side + 1)) for size in picture.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    crop = np.rot90(cv2.resize(picture[y : y + side, x : x + side], (SIDE, SIDE), interpolation=how), rng.integers(4))
    crop = crop.astype(np.float32)
    if rng.random() < 0.3:
        crop = 255 * (crop / 255) ** float(np.exp(rng.uniform(-0.7, 0.7)))
    if rng.random() < 0.3:
        crop = (crop - crop.mean()) * rng.uniform(0.5, 2) + crop.mean()
    if rng.random() < 0.3:
        crop = crop + rng.normal(0, rng.uniform(1, 12), crop.shape)
    if rng.random() < 0.15:
        crop = 255 - crop
    if rng.random() < 0.1:
        crop = np.full_like(crop, rng.uniform(0, 255)) + rng.normal(0, rng.uniform(0, 6), crop.shape)
    return np.ascontiguousarray(np.clip(crop, 0, 255), np.float32)


def words(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.6:
        return str(identity_lines(invent_person(rng), rng, 1)[0])
    if kind < 0.8:
        return "".join(map(str, rng.integers(0, 10, rng.integers(4, 11))))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" if kind < 0.9 else "abcdefghijklmnopqrstuvwxyz"
    return "".join(rng.choice(list(letters), rng.integers(3, 10)))


def write_line(crop: np.ndarray, covered: np.ndarray, rng: np.random.Generator) -> None:
    """One line laid on the crop where it stands out from what lies there; else nothing."""
    choice = fonts(True)
    height = int(np.exp(rng.uniform(np.log(6.5), np.log(20))))
    line = lettering(words(rng), choice[rng.integers(len(choice))], height, bool(rng.random() < 0.1))
    angle = float(rng.choice([0, 90, 270])) if rng.random() < 0.7 else float(rng.uniform(-180, 180))
    middle = line.shape[1] / 2 + rng.uniform(-0.5, 0.5) * max(0, line.shape[1] - 40)
    matrix = cv2.getRotationMatrix2D((middle, line.shape[0] / 2), angle, 1)
    matrix[:, 2] += rng.uniform(10, SIDE - 10, 2) - (middle, line.shape[0] / 2)
    if angle == 0:
        matrix[:, 2] = np.round(matrix[:, 2])
    ink = cv2.warpAffine(line, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST if angle % 90 == 0 else cv2.INTER_LINEAR)
    area = cv2.warpAffine(np.ones_like(line), matrix, (SIDE, SIDE))
    behind = crop[area > 0.5]
    if (ink > 0.3).sum() < 25 or not len(behind):
        return
    light, style = rng.random() < 0.75, rng.random()
    least = max(14.0, 1.5 * float(behind.std()))
    if style < 0.65:
        far = float(np.exp(rng.uniform(np.log(least), np.log(256))))
        value = np.percentile(behind, 97) + far if light else np.percentile(behind, 3) - far
        value = float(np.clip(value, 0, 255))
        if abs(value - behind.mean()) < least:
            value = 255.0 if behind.mean() < 128 else 0.0
        if abs(value - behind.mean()) < least:
            return
    else:  # an edge around the letters, or a plate behind them
        difference = rng.uniform(30, 255)
        value, other = (float(v) for v in np.array((difference, 0)) + rng.uniform(0, 255 - difference))
        value, other = (value, other) if light else (other, value)
        around = (ink > 0.2, np.ones((3, 3))) if style < 0.82 else (area > 0.5, np.ones((7, 7)))
        crop[cv2.dilate(around[0].astype(np.uint8), around[1].astype(np.uint8)) > 0] = other
    crop[...] = crop * (1 - ink) + value * ink
    np.maximum(covered, area, out=covered)


def draw_shapes(crop: np.ndarray, rng: np.random.Generator) -> None:
    """What is no text: lines, frames, ellipses and ticks."""
    for _ in range(int(rng.integers(1, 4))):
        x0, y0, x1, y1 = (int(value) for value in rng.integers(0, SIDE, 4))
        grey, thick, kind = float(rng.uniform(0, 255)), int(rng.integers(1, 4)), rng.integers(4)
        if kind == 0:
            cv2.line(crop, (x0, y0), (x1, y1), grey, thick)
        elif kind == 1:
            cv2.rectangle(crop, (x0, y0), (x1, y1), grey, thick if rng.random() < 0.7 else -1)
        elif kind == 2:
            axes = max(3, x1 // 2), max(3, y1 // 2)
            cv2.ellipse(crop, (x0, y0), axes, float(rng.uniform(0, 180)), 0, 360, grey, thick)
        else:
            for y in range(0, SIDE, int(rng.integers(5, 30))):
                cv2.line(crop, (x0, y), (x0 + 6, y), grey, 1)


def worn(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The crop as uint8, as it may come: blurred, or once a JPEG."""
    crop = np.clip(crop, 0, 255)
    way = rng.random()
    if way < 0.15:
        crop = cv2.GaussianBlur(crop, (0, 0), float(rng.uniform(0.3, 0.8)))
    elif way < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 95))]
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", crop.astype(np.uint8), quality)[1], cv2.IMREAD_GRAYSCALE))
    return crop.astype(np.uint8)


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1)),
        *(nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 1, 1)),
    )


def trained(crops: np.ndarray, labels: np.ndarray, epochs: int, rng: np.random.Generator) -> nn.Sequential:
    """The network after `epochs` over all crops; cells that it has wrong count most."""
    torch.manual_seed(0)
    net = network()
    steps = epochs * (len(crops) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    for epoch in range(epochs):
        losses = []
        for chosen in np.array_split(rng.permutation(len(crops)), len(crops) // BATCH):
            turn = int(rng.integers(4))
            x = torch.rot90((torch.from_numpy(crops[chosen]).float()[:, None] - 128) / 64, turn, (2, 3))
            label = torch.rot90(torch.from_numpy(labels[chosen]), turn, (1, 2))
            answer, lines = net(x)[:, 0], label == 1
            loss = functional.binary_cross_entropy_with_logits(answer, lines.float(), reduction="none")
            sure = torch.sigmoid(answer.detach())
            weight = (0.1 + torch.where(lines, 2 * (1 - sure), sure)) * (label != IGNORED)
            loss = (loss * weight).sum() / (lines.sum() + 200)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)
    return net


def write(net: nn.Sequential, path: Path) -> None:
    """The network as ONNX: uint8 (n, 1, rows, columns), rows and columns multiples of 8, to log odds of each cell."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["0"]),
    ]
    held = {"middle": np.float32(128).reshape(()), "gain": np.float32(1 / 64).reshape(())}
    for number, layer in enumerate(net):
        into, out = str(number), "letters" if number == len(net) - 1 else str(number + 1)
        if not isinstance(layer, nn.Conv2d):
            nodes.append(helper.make_node("Relu", [into], [out]))
            continue
        held |= {f"w{number}": layer.weight.detach().numpy(), f"b{number}": np.asarray(layer.bias.detach())}  # type: ignore[union-attr]
        how = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "group": layer.groups}
        pads = [int(layer.padding[0])] * 4
        nodes.append(helper.make_node("Conv", [into, f"w{number}", f"b{number}"], [out], pads=pads, **how))
    graph = helper.make_graph(
        nodes,
        "letters",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 1, "rows", "columns"])],
        [helper.make_tensor_value_info("letters", TensorProto.FLOAT, ["n", 1, None, None])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--pictures", type=int, default=27000)
    parser.add_argument("--epochs", type=int, default=17)
    parser.add_argument("--data", type=Path, help="folder with real pictures: mri and cxr")
    chosen = parser.parse_args()
    rng = np.random.default_rng(1)
    crops, labels = map(np.stack, zip(*examples(grounds(chosen.data), chosen.pictures, rng), strict=True))
    write(trained(crops, labels, chosen.epochs, rng), chosen.result)


if __name__ == "__main__":
    main()
