"""Measures that need no network, each against its reference implementation."""

import numpy as np
import pytest
import scipy.linalg
import torch
from eval_folders import picture, worse
from skimage.metrics import structural_similarity
from torchvision_shim import import_torchvision

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.metrics.feature_distances import (
    compute_frechet,
    compute_frechet_from_features,
    compute_kernel_distance,
)
from omfa_jax.evals.metrics.ssim import LUMA, WINDOW, ssim
from omfa_jax.evals.protocol_spec import load_protocol
from omfa_jax.evals.psnr import psnr

import_torchvision()

RGB = load_protocol("omfa").get_metrics("paired")["ssim"].options
LUMA_ONLY = load_protocol("tryoffdiff").get_metrics("try_off")["ssim"].options
PAIRS = [
    (picture(seed), worse(picture(seed), kind, 2)) for seed, kind in enumerate(("blur", "noise"))
]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float64) / 255).permute(2, 0, 1)[None]


@pytest.mark.parametrize("pair", PAIRS, ids=["blur", "noise"])
def test_ssim_is_torchmetrics(pair):
    from torchmetrics.functional.image import structural_similarity_index_measure

    image, truth = pair
    expected = structural_similarity_index_measure(tensor(image), tensor(truth), data_range=1.0)
    assert ssim(image, truth, RGB) == pytest.approx(float(expected), abs=1e-6)
    assert ssim(truth, truth, RGB) == 1


@pytest.mark.parametrize("pair", PAIRS, ids=["blur", "noise"])
def test_luma_ssim_is_pyiqas_definition_and_skimages_where_they_meet(pair):
    """pyiqa: y = round(255 * (0.299 r + 0.587 g + 0.114 b)), 11x11 Gaussian windows that lie
    inside the picture, contrast-structure term not below 0, mean."""
    image, truth = pair
    x, y = (np.round(each @ LUMA) for each in pair)
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    kernel = torch.from_numpy(window / window.sum())[None, None]

    def mean(values: np.ndarray) -> np.ndarray:
        found = torch.nn.functional.conv2d(torch.from_numpy(values)[None, None], kernel)
        return found[0, 0].numpy()

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    structure = np.maximum((2 * cov + c2) / (vx + vy + c2), 0)
    expected = ((2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure).mean()
    assert ssim(image, truth, LUMA_ONLY) == pytest.approx(expected, abs=1e-6)
    assert structural_similarity(x, y, **WINDOW) == pytest.approx(expected, abs=1e-2)


def test_the_ssim_variants_differ():
    image, truth = PAIRS[1]
    assert abs(ssim(image, truth, RGB) - ssim(image, truth, LUMA_ONLY)) > 1e-3


def test_psnr_is_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    for image, truth in PAIRS:
        expected = peak_signal_noise_ratio(tensor(image), tensor(truth), data_range=1.0)
        # torchmetrics takes its logarithm in float32
        assert psnr(image, truth) == pytest.approx(float(expected), rel=1e-6)


def features(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, width)) @ random.normal(size=(width, width))
    return (mixed + random.normal(size=width)).astype(np.float32)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # clean-fid's
@pytest.mark.parametrize("count", [200, 12], ids=["full", "singular"])
def test_fid_is_torch_fidelitys_and_clean_fids(count):
    from cleanfid.fid import fid_from_feats
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    one, other = features(count), features(count + 5, seed=1)
    statistics = [fid_features_to_statistics(torch.from_numpy(each)) for each in (one, other)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert compute_frechet_from_features(one, other) == pytest.approx(expected, rel=1e-4)
    assert compute_frechet_from_features(one, other) == pytest.approx(
        fid_from_feats(one, other), rel=1e-4
    )


def test_frechet_of_gaussians_is_the_closed_form():
    random = np.random.default_rng(0)
    mean, other_mean = random.normal(size=(2, 6))
    # covariances that commute: the root of the product is the product of the roots
    basis = scipy.linalg.qr(random.normal(size=(6, 6)))[0]
    deviations, others = random.uniform(0.1, 2, size=(2, 6))
    covariance, other = (basis * deviations**2) @ basis.T, (basis * others**2) @ basis.T
    expected = ((mean - other_mean) ** 2).sum() + ((deviations - others) ** 2).sum()
    assert compute_frechet(mean, covariance, other_mean, other) == pytest.approx(
        expected, rel=1e-10
    )
    # and samples of these Gaussians come near it
    sampled = [
        random.multivariate_normal(center, spread, 60_000)
        for center, spread in ((mean, covariance), (other_mean, other))
    ]
    assert compute_frechet_from_features(*sampled) == pytest.approx(expected, rel=0.03)
    assert compute_frechet_from_features(sampled[0], sampled[0]) == pytest.approx(0, abs=1e-9)


def test_kid_is_torch_fidelitys_and_clean_fids():
    """With subsets that hold everything, the random choice of a subset does not matter."""
    from cleanfid.fid import kernel_distance as clean_fids
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    one, other = features(40), features(40, seed=1)
    given = {"subsets": 3, "subset_size": 40, "small": "all", "seed": 0}
    ours = compute_kernel_distance(one, other, **given)
    settings = {
        "kid_subsets": 3,
        "kid_subset_size": 40,
        "verbose": False,
        "rng_seed": 0,
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    theirs = kid_features_to_metric(torch.from_numpy(one), torch.from_numpy(other), **settings)
    assert ours.value == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-4)
    assert ours.value == pytest.approx(clean_fids(one, other, num_subsets=3), rel=1e-4)
    assert ours.interval is None


def test_kid_has_an_interval_over_seeded_subsets_around_its_value():
    one, other = features(80), features(90, seed=1)
    given = {"subsets": 50, "subset_size": 1000, "small": "half"}
    found = compute_kernel_distance(one, other, **given, seed=3)
    assert found.interval and found.interval[0] < found.value < found.interval[1]
    assert found == compute_kernel_distance(one, other, **given, seed=3)
    assert found != compute_kernel_distance(one, other, **given, seed=4)
    whole = compute_kernel_distance(one[:80], other[:80], **{**given, "small": "all"}, seed=3)
    assert found.interval[0] < whole.value < found.interval[1]


def test_a_set_of_one_is_refused():
    for distance in (
        compute_frechet_from_features,
        lambda a, b: compute_kernel_distance(a, b, subsets=1, subset_size=9, small="all", seed=0),
    ):
        with pytest.raises(OmfaError, match="2 images"):
            distance(features(1), features(5))
