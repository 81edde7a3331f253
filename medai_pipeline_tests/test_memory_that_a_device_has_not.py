"""Out of memory, in whatever words: batches are halved down to one image and no further, and then it is said in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medai_pipeline.errors import ModelError
from medai_pipeline.models.device_memory import in_batches, out_of_memory, perhaps_memory
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import LoadedModel, load
from medai_pipeline.models.uncertainty import full_samples
from medai_pipeline.stages.explanation import Drawing, explain_study
from medai_pipeline_tests.model_versions import small_site

SAID = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA ran out of memory outside PyTorch's allocator."),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
    RuntimeError("std::bad_alloc"),
]
LEFT_OPEN = [
    RuntimeError("run_func_(container) API call failed at model_container_runner.cpp, line 145"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
]
OTHER = [RuntimeError("sizes do not match"), RuntimeError("CUDA error: device-side assert triggered")]


def test_every_library_is_understood_and_other_failures_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert all(out_of_memory(error) and perhaps_memory(error) for error in (caught.value, *SAID))
    assert all(perhaps_memory(error) and not out_of_memory(error) for error in LEFT_OPEN)
    assert not any(perhaps_memory(error) for error in OTHER)


class Device:
    """A device with room for some images at once, which says so by `error`; it keeps what it was asked for."""

    def __init__(self, room: int, error: BaseException) -> None:
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.sizes.append(len(pixels))
        if len(pixels) > self.room:
            raise self.error
        return pixels * 2


@pytest.mark.parametrize("error", [*SAID[:4], LEFT_OPEN[0]], ids=str)
def test_batches_are_halved_from_where_one_does_not_fit_and_every_image_is_answered_once(error: BaseException) -> None:
    device, pixels = Device(3, error), np.arange(11.0)
    np.testing.assert_array_equal(np.concatenate(list(in_batches(device, pixels, 8, "m"))), pixels * 2)
    assert device.sizes == [8, 4, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("error", "words"),
    [(SAID[0], "m: the device has no memory for one image"), (LEFT_OPEN[0], "for want of memory or else (run_func_")],
)
def test_one_image_that_does_not_fit_is_tried_twice_and_ends_in_one_line(error: BaseException, words: str) -> None:
    device = Device(0, error)
    with pytest.raises(ModelError) as caught:
        list(in_batches(device, np.arange(5.0), 4, "m"))
    assert words in caught.value.reason and device.sizes == [4, 2, 1, 1]


def test_other_failures_are_raised_as_they_are_at_once() -> None:
    for error in OTHER:
        device = Device(0, error)
        with pytest.raises(RuntimeError) as caught:
            list(in_batches(device, np.arange(5.0), 4, "m"))
        assert caught.value is error and device.sizes == [4]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = tmp_path_factory.mktemp("site")
    return load(small_site(folder), folder)


def test_a_compiled_network_that_says_no_more_than_that_a_call_failed_goes_on_in_smaller_batches(
    model: LoadedModel,
) -> None:
    honest, sizes = model.backend, []

    def compiled(pixels: np.ndarray):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise LEFT_OPEN[0]
        return honest(pixels)

    pixels = np.random.default_rng(0).random((5, 1, 64, 64), dtype=np.float32)
    crowded = predict(dataclasses.replace(model, prepared=compiled), pixels, batch_size=8)
    assert sizes == [5, 2, 2, 1]
    np.testing.assert_allclose(crowded.logits, predict(model, pixels).logits, atol=1e-5)


def test_a_pass_of_dropout_without_room_is_done_again_with_the_same_masks(model: LoadedModel) -> None:
    pixels = np.random.default_rng(0).random((2, 1, 64, 64), dtype=np.float32)
    calm = full_samples(model, pixels, samples=3, seed=5)
    fails: list[BaseException] = []

    def crowded(module: torch.nn.Module, given: tuple[torch.Tensor, ...], answer: torch.Tensor) -> None:
        if fails:
            raise fails.pop()

    hook = model.network.register_forward_hook(crowded)
    try:
        for error in (SAID[3], LEFT_OPEN[0]):
            fails.append(error)
            np.testing.assert_array_equal(full_samples(model, pixels, samples=3, seed=5), calm)
            assert not fails and not model.network.training
        fails.extend([SAID[0]] * 2)
        with pytest.raises(ModelError, match="no memory for one image"):
            full_samples(model, pixels, samples=3, seed=5)
    finally:
        hook.remove()


def test_an_explanation_without_room_is_asked_again_and_then_fails_in_one_line(monkeypatch) -> None:
    tries: list[int] = []

    def crowded(*given: object, **named: object) -> None:
        tries.append(1)
        raise SAID[5]

    monkeypatch.setattr("medai_pipeline.explain.study.explain", crowded)
    prediction = SimpleNamespace(labels=("A",), model=SimpleNamespace(name="m"))
    with pytest.raises(ModelError, match="m: the device has no memory for one image"):
        explain_study(prediction, None, SimpleNamespace(instances=()), None, Drawing())  # type: ignore[arg-type]
    assert len(tries) == 2
