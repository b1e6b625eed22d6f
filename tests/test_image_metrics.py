"""Laws of the image metrics, the judge's size and accuracy, and errors that say what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file

from core.batch import Batch
from core.data import ArraySource, whole
from core.errors import UserError
from core.features import FeatureExtractor, Features, extract
from core.metrics import (
    frechet_distance,
    inception_score,
    label_accuracy,
    memorisation,
    nearest_distances,
    precision_recall,
)
from modalities.image import judge as judging
from modalities.image.codec import as_float
from modalities.image.features import InceptionV3
from modalities.image.judge import Judge
from modalities.image.metrics import evaluate
from modalities.image.mnist import Mnist5k
from modalities.image.modality import Image


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Mnist5k:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYDIFFUSION_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Mnist5k()


# Frechet distance


def test_frechet_distance_of_gaussians_has_the_closed_form() -> None:
    """Points with exactly these means and diagonal covariances: |m|^2 + sum (s_a - s_b)^2."""
    points = normal(0, 40, 3).double()
    points = points - points.mean(0)
    whitened = points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T
    std_a, std_b, shift = (torch.tensor(v, dtype=torch.float64) for v in ([1, 2, 0.5], [3, 1, 0.5], [1, 0, -2]))
    expected = shift.square().sum() + (std_a - std_b).square().sum()
    assert frechet_distance(whitened * std_a, whitened * std_b + shift) == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(("n", "dim"), [(300, 8), (50, 20)])
def test_frechet_distance_equals_scipys_matrix_square_root(n: int, dim: int) -> None:
    a, b = normal(1, n, dim), normal(2, n + 7, dim) @ normal(3, dim, dim) + 0.3
    cov_a, cov_b = np.cov(a.double().T), np.cov(b.double().T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    gap = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    expected = gap + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_is_exact_where_covariances_are_singular() -> None:
    points = normal(4, 10, 500).double()  # rank 9 of 500
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points, points + 1) == pytest.approx(500, rel=1e-6)
    assert frechet_distance(points, 3 * points) == pytest.approx(
        (4 * points.mean(0).square().sum() + 4 * points.T.cov().trace()).item(), rel=1e-9
    )
    with pytest.raises(ValueError, match="at least 2 points"):
        frechet_distance(points[:1], points)


# The other figures


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    sure = 1e4 * torch.eye(7).repeat(3, 1)
    assert inception_score(sure) == pytest.approx(7)
    assert inception_score(sure[:1].repeat(9, 1)) == pytest.approx(1)  # always the same class
    assert inception_score(torch.zeros(9, 7)) == pytest.approx(1)  # never sure


def test_precision_and_recall_of_identical_far_and_partial_sets() -> None:
    a = normal(5, 200, 4)
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + 100) == (0, 0)
    both = torch.cat([a, a + 100])
    assert precision_recall(both, a) == (1, 0.5)  # good samples that miss half of the data
    assert precision_recall(a, both) == (0.5, 1)
    with pytest.raises(ValueError, match="more than k=3"):
        precision_recall(a[:3], a)


def test_precision_and_recall_follow_their_definition() -> None:
    real, fake = normal(6, 30, 2).double(), 1.5 * normal(7, 25, 2).double()

    def share(points: torch.Tensor, manifold: torch.Tensor) -> float:
        inside = 0
        for point in points:
            for centre in manifold:
                radius = sorted((other - centre).norm().item() for other in manifold)[3]  # the first is the centre
                if (point - centre).norm() <= radius:
                    inside += 1
                    break
        return inside / len(points)

    assert precision_recall(real, fake) == (share(fake, real), share(real, fake))


def test_label_accuracy() -> None:
    assert label_accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75


def test_nearest_distances_need_not_fit_into_one_piece() -> None:
    points, others = normal(8, 5, 3), normal(9, 3000, 3)
    expected = torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    assert nearest_distances(points, others) == pytest.approx(expected)


def test_memorisation_flags_copies_and_only_copies() -> None:
    training, held_out, new = normal(10, 500, 30), normal(11, 300, 30), normal(12, 300, 30)
    honest = memorisation(new, held_out, training)
    assert honest["nearest_training_ratio"] == pytest.approx(1, abs=0.05)
    assert honest["copied_share"] < 0.05
    copies = memorisation(training[:300] + 0.01 * new, held_out, training)
    assert copies["nearest_training_ratio"] < 0.05
    assert copies["copied_share"] == 1
    assert memorisation(torch.cat([new[:150], training[:150]]), held_out, training)["copied_share"] >= 0.5


# The judge


def test_the_judge_is_small_and_as_accurate_as_stated(digits: Mnist5k) -> None:
    judge = Judge()
    assert judging.WEIGHTS.stat().st_size < 1e6
    test = whole(digits.test)
    accuracy = label_accuracy(extract(judge, as_float(test.x)).logits, test.cond["label"])
    assert accuracy == pytest.approx(judging.TEST_ACCURACY, abs=0.0011)  # one image may fall either way elsewhere
    assert accuracy >= 0.985
    assert float(judge.metadata["test_accuracy"]) == judging.TEST_ACCURACY
    assert judge.metadata["split"] == "train"


def test_real_digits_reach_the_floor_and_damaged_ones_do_not(digits: Mnist5k) -> None:
    reference, others = digits.test.batch(range(500)), digits.test.batch(range(500, 1000))
    training = whole(digits.train)
    modality = Image((1, 28, 28), digits.classes)
    floor = modality.metrics(others, reference, training)
    assert floor["n"] == 500
    assert floor["frechet_distance"] < 1
    assert floor["precision"] > 0.85
    assert floor["recall"] > 0.85
    assert floor["inception_score"] > 9
    assert floor["label_accuracy"] > 0.98
    assert floor["nearest_training_ratio"] == pytest.approx(1, abs=0.1)
    assert floor["copied_share"] < 0.03
    noisy = others.with_x((others.x / 255 + 0.1 * normal(13, 500, 1, 28, 28)).clamp(0, 1))
    assert modality.metrics(noisy, reference, None)["frechet_distance"] > 10 * floor["frechet_distance"]
    copies = modality.metrics(digits.train.batch(range(500)), reference, training)
    assert copies["copied_share"] == 1
    assert copies["frechet_distance"] < 1  # a distance alone does not see copies


def test_uint8_and_float_images_have_the_same_figures(digits: Mnist5k) -> None:
    batch, other = whole(digits.val, 50), whole(digits.test, 50)
    as_floats = evaluate(batch.with_x(batch.x.float() / 255), other, None, Judge())
    assert as_floats == pytest.approx(evaluate(batch, other, None, Judge()))


def test_the_judge_learns_from_the_training_split_alone_and_repeatably(digits: Mnist5k) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (128, 1, 28, 28), dtype=np.uint8)
    source = ArraySource(x, {"label": np.arange(128) % 10})
    facts = digits.facts
    data = SimpleNamespace(name="toy", train=source, facts=facts)  # no other split to look at
    first, again, other = (judging.train(data, epochs=1, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    with pytest.raises(ValueError, match="toy has"):
        judging.train(SimpleNamespace(name="toy", train=source, facts=facts | {"shape": [1, 32, 32]}))


def test_weights_are_checked_before_they_are_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing.safetensors cannot be read"):
        Judge(tmp_path / "nothing.safetensors")
    (tmp_path / "pickle").write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match="pickle cannot be read"):
        Judge(tmp_path / "pickle")
    tensors = load_file(judging.WEIGHTS)
    save_file(tensors | {"classifier.bias": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(UserError, match=r"classifier.bias is \(3,\), expected \(10,\)"):
        Judge(tmp_path / "other")
    network = judging.JudgeNetwork()
    judging.save(network, tmp_path / "mine", {"data": "toy"})
    assert Judge(tmp_path / "mine").name == "judge of toy"
    with pytest.raises(ValueError, match="not 3x32x32"):
        Judge()(torch.zeros(1, 3, 32, 32))


class Brightness(FeatureExtractor):
    name, classes = "brightness", ("dark", "bright")

    def __call__(self, images: torch.Tensor) -> Features:
        mean = images.flatten(1).mean(1, keepdim=True)
        return Features(mean, torch.cat([0.5 - mean, mean - 0.5], dim=1))


def test_label_figures_only_where_the_classes_are_the_extractors() -> None:
    x, label = torch.rand(8, 1, 28, 28), torch.arange(8) % 2
    batch = Batch.full(x, {"label": label})
    seen, unseen = (Image((1, 28, 28), names, Brightness()) for names in (["dark", "bright"], ["cat", "dog"]))
    assert "label_accuracy" in seen.metrics(batch, batch, None)
    assert "label_accuracy" not in unseen.metrics(batch, batch, None)
    assert seen.instrument.name == "brightness"


@pytest.mark.parametrize(
    ("shape", "classes", "chosen"),
    [
        ((1, 28, 28), judging.CLASSES, Judge),
        ((1, 28, 28), [], Judge),
        ((1, 28, 28), [str(i) for i in range(5)], InceptionV3),
        ((1, 28, 28), ["T-shirt/top", "Trouser"], InceptionV3),
        ((3, 28, 28), judging.CLASSES, InceptionV3),
    ],
)
def test_the_digit_judge_sees_digits_alone(
    shape: tuple[int, ...], classes: list[str], chosen: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InceptionV3, "__call__", lambda self, images: Features(images.flatten(1), None))
    modality = Image(shape, classes)
    assert modality.missing(10) == ""
    assert type(modality.instrument) is chosen


@pytest.mark.parametrize(
    ("n", "left_out"), [(1, {"frechet_distance", "precision", "recall"}), (3, {"precision", "recall"}), (4, set())]
)
def test_few_images_leave_figures_out_and_say_so(n: int, left_out: set[str], digits: Mnist5k) -> None:
    modality, batch = Image((1, 28, 28), digits.classes), whole(digits.test, n)
    figures = modality.metrics(batch, batch, whole(digits.train, 20))
    every = {"n", "frechet_distance", "precision", "recall", "inception_score", "label_accuracy"}
    assert figures.keys() == every - left_out | {"nearest_training_ratio", "copied_share"}
    assert bool(left_out) == (f"n={n} images are too few" in modality.missing(n))


def test_inception_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = Batch.full(torch.rand(4, 3, 8, 8))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    modality = Image((3, 8, 8))
    assert "pip install torch-fidelity" in modality.missing(4)
    assert modality.metrics(colour, colour, colour).keys() == {"n", "nearest_training_ratio", "copied_share"}
    assert modality.instrument is None

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    stand_in = SimpleNamespace(FeatureExtractorInceptionV3=unreachable)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", stand_in)
    with pytest.raises(UserError, match=r"weights of Inception-v3 could not be downloaded; give .*not known"):
        InceptionV3()(colour.x)
    with pytest.raises(UserError, match="could not be read from mine"):
        InceptionV3("mine")(colour.x)
