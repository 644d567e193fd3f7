"""Test-time views: what they show, their averages, and the sentences where there are none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import evaluate_model, evaluate_run_views
from netc_runtime.export import export_run
from netc_runtime.predict import predict
from netc_runtime.views import averaged, views_of
from tests.driver.conftest import CPU, classified

ALL = ["identity", "horizontal_flip", "vertical_flip", "both_flips", "corners"]


def first_pixel(images: np.ndarray) -> np.ndarray:
    return images[:, :, 0, 0]


def test_views_show_mirrored_and_moved_images() -> None:
    image = np.arange(4 * 8, dtype=np.float32).reshape(1, 1, 4, 8)
    seen = [view.of(image)[0, 0] for view in views_of({"test_views": ALL})]
    np.testing.assert_array_equal(seen[0], image[0, 0])
    np.testing.assert_array_equal(seen[1], image[0, 0, :, ::-1])
    np.testing.assert_array_equal(seen[2], image[0, 0, ::-1])
    np.testing.assert_array_equal(seen[3], image[0, 0, ::-1, ::-1])
    padded = np.pad(image[0, 0], 1, "edge")  # an eighth of the sides, at least one pixel
    for view, (y, x) in zip(seen[4:], ((2, 2), (2, 0), (0, 2), (0, 0)), strict=True):
        np.testing.assert_array_equal(view, padded[y : y + 4, x : x + 8])


def test_averages_are_over_all_views() -> None:
    images = np.random.default_rng(0).random((3, 2, 5, 6)).astype(np.float32)
    found = averaged(first_pixel, images, views_of({"test_views": ["identity", "both_flips"]}))
    np.testing.assert_allclose(found, (images[:, :, 0, 0] + images[:, :, -1, -1]) / 2, rtol=1e-6)  # float32 inputs


def test_class_maps_are_mirrored_back() -> None:
    images = np.random.default_rng(1).random((3, 2, 5, 6)).astype(np.float32)
    found = averaged(lambda x: 2 * x, images, views_of({"test_views": ALL[:4]}))
    np.testing.assert_allclose(found, 2 * images, rtol=1e-6)


NOTHING = (
    "there are no views to average: the spec has no data.test_views; add --set "
    '"data.test_views=[identity, horizontal_flip]"'
)
UNKNOWN = "data.test_views: expected a list of identity, horizontal_flip, vertical_flip, both_flips, corners, got ['x']"
MAPS = "data.test_views: corners are for models with one answer a sample, not for class maps; use flips"
NO_IMAGES = "views are those of images [channels, height, width]; leave out --tta"
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: views_of({}), NOTHING),
    (lambda: views_of({"test_views": ["x"]}), UNKNOWN),
    (lambda: averaged(lambda x: x, np.zeros((1, 1, 8, 8)), views_of({"test_views": ["corners"]})), MAPS),
    (lambda: averaged(lambda x: x, np.zeros((1, 4)), views_of({"test_views": ["identity"]})), NO_IMAGES),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_mistakes(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DriverError) as caught:
        call()
    assert str(caught.value) == message
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_model_and_a_run_average_alike(finished_run: Path, tmp_path: Path) -> None:
    model, views = tmp_path / "model.onnx", {"test_views": ["identity", "horizontal_flip"]}
    export_run(finished_run, model)
    plain = classified(model, ["test:0-19"])
    alone = predict(model, ["test:0-19"], CPU, {"test_views": ["identity"]}, test_views=True)
    assert [p.as_dict()["index"] for p in alone] == [p.index for p in plain]
    both = predict(model, ["test:0-19"], CPU, views, test_views=True)
    assert [p.as_dict()["probability"] for p in both] != [p.probability for p in plain]
    of_model = evaluate_model(model, CPU, views, test_views=True)
    of_run = evaluate_run_views(finished_run, host=CPU, data_overrides=views)
    assert of_model.metrics == of_run.metrics  # top-1 accuracy, of scores that differ by the fold's rounding alone
    assert 0.1 < of_model.metrics["top-1 accuracy"] < 1.0
    assert of_run.step is not None
