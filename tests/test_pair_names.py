"""The pictures of a list of pairs: their names, and where their components are written."""

import pytest
import tiny_viton as tiny

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import write_image
from omfa_jax.data.builders.raw_files import Pair, read_pair_list
from omfa_jax.sampling.pair_names import name_pictures
from omfa_jax.sampling.pairs_folder import PairsFolder

FACTS = {"seed": 3}


def test_names_do_not_collide_and_do_not_depend_on_what_follows():
    pairs = [
        *(Pair("a__b.jpg", "c.jpg"), Pair("a.jpg", "b__c.jpg"), Pair("A.png", "B__C.png")),
        *(Pair("dr. no", "x.y.jpg"), Pair("ü" * 100 + ".jpg", "ü" * 100), Pair("p.jpg", "")),
    ]
    names = [picture.name for picture in name_pictures(pairs)]
    assert names[0] == "a__b__c" and names[3] == "dr. no__x.y" and names[5] == "p"
    assert len({name.casefold() for name in names}) == len(names)
    assert max(len(name.encode()) for name in names) < 200
    assert names[:3] == [picture.name for picture in name_pictures(pairs[:3])]
    assert len({picture.identity for picture in name_pictures(pairs)}) == len(pairs)


def test_several_components_have_a_folder_each_and_are_finished_together(tmp_path):
    pictures = name_pictures([Pair("a.jpg", "")])
    folder = PairsFolder(tmp_path, pictures, ("garment", "person"))
    assert folder.get_path("a", "person") == tmp_path / "person/a.png"
    folder.claim(FACTS, overwrite=False)
    folder.open_ledger(0)
    folder.append(0, "done")
    write_image(folder.get_path("a", "person"), tiny.photo(0))
    folder.close(FACTS)
    # the other component is not there
    assert folder.list_missing() == [0]
    write_image(folder.get_path("a", "garment"), tiny.photo(1))
    assert folder.list_missing() == []


def test_lines_that_occur_twice_are_used_once(tmp_path, caplog):
    path = tmp_path / "pairs.txt"
    path.write_text("a.jpg b.jpg 0\na.jpg,b.jpg,upper\nb.jpg b.jpg\n")
    assert read_pair_list(path, "--pairs") == [
        Pair("a.jpg", "b.jpg", "upper"),
        Pair(*["b.jpg"] * 2),
    ]
    said = "1 line of pairs that occur more than once (such as a.jpg b.jpg); each is used once"
    assert caplog.messages == [f"{path}: {said}"]
    path.write_text("a.jpg b.jpg 0\na.jpg b.jpg dress\n")
    with pytest.raises(OmfaError, match="with two categories: upper and dress; mend the list"):
        read_pair_list(path, "--pairs")
