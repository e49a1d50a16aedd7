"""Every network's measure puts a ladder of blur, noise or shift in order, on random weights."""

import itertools

import numpy as np
import pytest
import torch
from eval_folders import picture, worse, write_inception, write_trunk, write_vit
from torchvision_shim import import_torchvision

from omfa_jax.evals.metric_weights import MetricWeights
from omfa_jax.evals.metrics.feature_distances import (
    compute_frechet_from_features,
    compute_kernel_distance,
)
from omfa_jax.evals.metrics.feature_extractors import cosine_similarity, load_dino, load_inception
from omfa_jax.evals.metrics.perceptual_metrics import load_dists, load_lpips
from omfa_jax.evals.protocol_spec import load_protocol

import_torchvision()

KINDS = ("blur", "noise", "shift")
STEPS = range(3)
TRUTHS = [picture(seed, 64, 48) for seed in range(2)]
OMFA = load_protocol("omfa")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks")
    for net in ("alex", "vgg"):
        write_trunk(path, net)
    write_vit(path / "dino-vits16")
    write_inception(path)
    return MetricWeights(path, skip_checksum=True)


def ladder(kind: str) -> list[list[np.ndarray]]:
    return [[worse(truth, kind, step, seed) for seed, truth in enumerate(TRUTHS)] for step in STEPS]


def rising(values: list[float]) -> bool:
    return all(one < other for one, other in itertools.pairwise(values))


@pytest.mark.parametrize("measure", ["lpips alex", "lpips vgg", "dists"])
def test_perceptual_distances(measure, networks):
    if measure == "dists":
        score = load_dists(networks, {}, "cpu")
    else:
        score = load_lpips(networks, {"net": measure.split()[1]}, "cpu")
    for kind in KINDS:
        rungs = [np.mean(list(map(score, rung, TRUTHS))) for rung in ladder(kind)]
        assert rising(rungs), (kind, rungs)


def test_fid_and_kid(networks):
    extract = load_inception(networks, OMFA.get_metrics("paired")["fid"].options, "cpu")
    truths = np.stack([extract(truth) for truth in TRUTHS])
    for kind in KINDS:
        sets = [truths, *(np.stack(list(map(extract, rung))) for rung in ladder(kind)[1:])]
        fids = [compute_frechet_from_features(made, truths) for made in sets]
        assert rising(fids) and abs(fids[0]) < 1e-6 * fids[-1], (kind, fids)
        given = {"subsets": 1, "subset_size": 9, "small": "all", "seed": 0}
        kids = [compute_kernel_distance(made, truths, **given).value for made in sets]
        assert rising(kids), (kind, kids)


def test_dino_similarity(networks):
    extract = load_dino(networks, OMFA.get_metrics("unpaired")["dino"].options, "cpu")
    for kind in KINDS:
        rungs = [
            np.mean(
                [
                    cosine_similarity(extract(made), extract(truth))
                    for made, truth in zip(rung, TRUTHS, strict=True)
                ]
            )
            for rung in ladder(kind)
        ]
        assert rungs[0] == pytest.approx(1) and rising(rungs[::-1]), (kind, rungs)
