"""The Dockerfile: its sources, extras and entry point exist, and the JobSets agree with it."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
JOBSETS = {path.stem: path for path in (ROOT / "launch").glob("gke_*.yaml")}
README = (ROOT / "launch" / "README.md").read_text()


def read_instructions():
    """Return (instruction, rest) of each line of the Dockerfile, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text()
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(kept))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def find_all(name):
    return [rest for instruction, rest in read_instructions() if instruction == name]


def get_arguments():
    """Return the build arguments and their defaults."""
    return dict((shlex.split(rest)[0].split("=", 1)) for rest in find_all("ARG"))


def get_container(name):
    spec = yaml.safe_load(JOBSETS[name].read_text())["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]
    return spec["template"]["spec"], spec["template"]["spec"]["containers"][0]


def is_ignored(source):
    """Return whether .dockerignore, which lets in what it names, leaves a path out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines, "an allow list: everything else is left out"
    return f"!{source}" not in lines


def test_what_is_copied_exists_and_is_not_ignored():
    sources = [word for rest in find_all("COPY") for word in rest.split()[:-1]]
    assert {"pyproject.toml", "omfa_jax", "configs", "launch", "README.md"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists() and not is_ignored(source), source
    assert is_ignored("tests") and is_ignored(".git") and is_ignored("runs")
    # what setuptools needs to build the package
    assert {*PROJECT["license-files"], PROJECT["readme"]} <= set(sources)


def test_dependencies_are_a_layer_before_the_sources():
    steps = read_instructions()
    first = next(
        i for i, (_, rest) in enumerate(steps) if "pip install" in rest and "EXTRAS" in rest
    )
    copied = [rest.split()[0] for name, rest in steps[:first] if name == "COPY"]
    assert copied == ["pyproject.toml"]
    # the empty package of that layer must not end up in the wheel
    assert "rm -rf omfa_jax build ./*.egg-info" in steps[first][1]


@pytest.mark.parametrize("name", ["gke_gpu", "gke_tpu"])
def test_the_jobsets_run_the_image(name):
    pod, container = get_container(name)
    image = container["image"]
    assert re.fullmatch(r"REGISTRY/omfa_jax:(cuda|tpu)", image)
    extra = image.split(":")[1]
    assert (
        extra == {"gke_gpu": "cuda", "gke_tpu": "tpu"}[name]
        and extra in PROJECT["optional-dependencies"]
    )
    assert f"docker build -t {image} --build-arg EXTRAS={extra},gcs ." in README
    # `command` replaces the entry point, so it starts with it
    (entry,) = (json.loads(rest) for rest in find_all("ENTRYPOINT"))
    assert container["command"][: len(entry)] == entry and entry[0] in PROJECT["scripts"]
    # relative to the image's working directory
    config = next(w.split("=")[1] for w in container["command"] if w.startswith("--config="))
    assert (ROOT / config).is_file() and config.split("/")[0] in {
        r.split()[0] for r in find_all("COPY")
    }
    assert find_all("WORKDIR") == ["/opt/omfa"]
    user = int(get_arguments()["USER_ID"])
    expected = {"gke_gpu": {user}, "gke_tpu": {0}}[name]
    contexts = [one.get("securityContext", {}) for one in (pod, container)]
    assert {c[key] for c in contexts for key in ("runAsUser", "fsGroup") if key in c} == expected


def test_the_user_is_not_root_and_python_is_pinned():
    assert find_all("USER") == ["${USER_ID}"] and int(get_arguments()["USER_ID"]) >= 1000
    names = [name for name, _ in read_instructions()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    python = get_arguments()["PYTHON"]
    assert get_arguments()["BASE"].startswith(f"python:{python}-")
    least = PROJECT["requires-python"].removeprefix(">=")
    assert [*map(int, python.split("."))] >= [*map(int, least.split("."))]
    assert find_all("FROM") == ["${BASE}"]


def test_documented_build_arguments_and_extras_exist():
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.MULTILINE))
    defaults = {name: value.strip("`") if value != "none" else "" for name, value in table.items()}
    assert defaults == get_arguments()
    texts = README + (ROOT / "Dockerfile").read_text()
    given = re.findall(r"EXTRAS=([a-z,-]+)", texts)
    assert len(given) >= 6
    extras = {extra for word in given for extra in word.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    assert set(re.findall(r"--build-arg ([A-Z_]+)=", texts)) <= set(get_arguments())


def test_pinned_torch_is_that_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    pins = re.findall(r"^TORCH(?:VISION)? \?= (.*)$", makefile, re.MULTILINE)
    assert len(pins) == 2
    for document in (README, (ROOT / "Dockerfile").read_text()):
        assert f'"{" ".join(pins)}"' in document
