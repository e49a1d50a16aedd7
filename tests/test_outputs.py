"""What commands write takes the place of their own results, and of nothing that they read."""

import argparse

import pytest
from out_arrangements import MINE, write_output

from omfa_jax.cli.main import main
from omfa_jax.cli.sample import TASKS, require_inputs_kept
from omfa_jax.core.errors import OmfaError
from omfa_jax.data.pipeline.latent_writer import write_latents
from omfa_jax.data.records import record_schema
from omfa_jax.data.records.finalize import require_free
from omfa_jax.data.records.staging import RECORD_FILES, open_staging_folder
from omfa_jax.studies.study_launchers import write_launchers
from omfa_jax.studies.study_manifest import Study


def write_records(folder, kind):
    record_schema.write_manifest(
        write_output(folder, RECORD_FILES), kind, "x/1.0", splits={"train": 1}
    )
    return folder


def test_records_are_replaced_by_their_kind_alone(tmp_path):
    out = write_records(tmp_path / "records", "images")
    require_free(out, overwrite=True, kind="images")
    for name in ("thesis.tex", "x/thesis.tex", "x/1.0/thesis.tex"):
        (out / name).parent.mkdir(exist_ok=True, parents=True)
        (out / name).write_text(MINE)
        with pytest.raises(OmfaError, match=name):
            require_free(out, overwrite=True, kind="images")
        (out / name).unlink()
    with pytest.raises(OmfaError, match="holds images"):
        require_free(out, overwrite=True, kind="latents")
    with pytest.raises(OmfaError, match="what --records reads"):
        write_latents(out, f"{out}/../records", lambda x: x, slots={}, vae_id="", overwrite=True)
    assert (out / record_schema.MANIFEST).is_file()


def test_a_hidden_folder_of_somebodys_is_not_taken_for_a_build(tmp_path):
    hidden = tmp_path / ".out.partial"
    (tmp_path / "precious").mkdir()
    for name in ("thesis.tex", "temporary"):
        hidden.mkdir()
        (hidden / name).write_text(MINE)
        with pytest.raises(OmfaError, match=name), open_staging_folder(tmp_path / "out", "x/1.0.0"):
            pass
        (hidden / name).unlink()
        hidden.rmdir()
    hidden.symlink_to("precious")
    refused = pytest.raises(OmfaError, match="expected a folder")
    with refused, open_staging_folder(tmp_path / "out", "x/1.0.0"):
        pass
    assert hidden.is_symlink() and (tmp_path / "precious").is_dir()


def test_a_picture_that_is_read_is_not_written(tmp_path):
    for name in ("sheet.png", "try_on_00.png", "garment_03.png"):
        (tmp_path / name).write_text(MINE)
        options = argparse.Namespace(task="try_on", person=f"{tmp_path}/absent/../{name}", steps=1)
        with pytest.raises(OmfaError, match=r"what --person reads"):
            require_inputs_kept(options, tmp_path, ("garment", *TASKS))
        require_inputs_kept(options, tmp_path / "inner", ("garment", *TASKS))
    options = argparse.Namespace(person=str(tmp_path / "person.png"))
    require_inputs_kept(options, tmp_path, ("garment", *TASKS))
    (tmp_path / "face_00.png").write_text(MINE)
    options = argparse.Namespace(person=str(tmp_path / "face_00.png"))
    with pytest.raises(OmfaError, match=r"what --person reads"):
        require_inputs_kept(options, tmp_path, ["face"])


def test_launchers_replace_launchers(tmp_path):
    study = Study("base.py", "", None, (), ())
    for _ in range(2):
        assert write_launchers(tmp_path, study, None) == ["local.sh"]
    for name in ("slurm.sh", "local.sh"):
        (tmp_path / name).write_text("#!/bin/bash\n# mine\n")
        with pytest.raises(OmfaError, match=f"{name} is not a launch script"):
            write_launchers(tmp_path, study, None)
        assert "mine" in (tmp_path / name).read_text()
        (tmp_path / name).unlink()


def test_the_law_is_not_written_over_its_table(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_text(MINE)
    flags = ["scaling", "fit", "--table", str(table), "--out", f"{tmp_path}/x/../runs.csv"]
    assert main(flags) == 2
    assert "what --table reads" in capsys.readouterr().err and table.read_text() == MINE
