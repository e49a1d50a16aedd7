"""Ways to spell or arrange an --out under which somebody's folder `precious` would be lost."""

import shutil

from omfa_jax.weights.imported_folder import CONTENTS, MANIFEST_FILE

MINE = "years of work"


def plain(place):
    return place / "precious"


def behind_a_new_folder(place):
    return f"{place}/new/../precious"


def behind_two_new_folders(place):
    return f"{place}/new/newer/../../precious"


def with_slashes(place):
    return f"{place}//precious//"


def with_a_dot(place):
    return f"{place}/./precious/."


def relative(place):
    return "absent/../precious"


def a_link(place):
    (place / "link").symlink_to("precious")
    return place / "link"


def a_link_to_a_link(place):
    a_link(place)
    (place / "second").symlink_to(place / "link")
    return f"{place}/second/"


def behind_a_dangling_link(place):
    (place / "dangling").symlink_to("nowhere")
    return f"{place}/dangling/../precious"


def behind_a_link_elsewhere(place):
    (place / "far" / "away").mkdir(parents=True)
    (place / "shortcut").symlink_to("far/away")
    return f"{place}/shortcut/../../precious"


def write_ours(folder, contents=CONTENTS):
    for name in contents:
        path = folder / name.replace("*", "x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ours")
    return folder


def its_parent_that_looks_like_ours(place):
    (place / MANIFEST_FILE).write_text("{}")
    return place


def a_folder_of_ours_with_it_inside(place):
    write_ours(place / "ours")
    (place / "precious").rename(place / "ours" / "unet" / "precious")
    (place / "precious").symlink_to("ours/unet/precious")
    return place / "ours"


def a_folder_of_ours_with_a_link_to_it(place):
    shutil.rmtree(write_ours(place / "ours") / "params")
    (place / "ours" / "params").symlink_to(place / "precious")
    return place / "ours"


def a_file_of_ours_that_is_a_link_to_it(place):
    (write_ours(place / "ours") / "omfa.json").unlink()
    (place / "ours" / "omfa.json").symlink_to(place / "precious" / "thesis.tex")
    return place / "ours"


def a_manifest_that_is_a_link(place):
    (place / "precious" / "unet").mkdir()
    (place / "precious" / "thesis.tex").rename(place / "thesis.tex")
    (place / "precious" / MANIFEST_FILE).symlink_to("../thesis.tex")
    (place / "precious" / "thesis.tex").symlink_to("../thesis.tex")
    return place / "precious"


ARRANGEMENTS = (
    plain,
    behind_a_new_folder,
    behind_two_new_folders,
    with_slashes,
    with_a_dot,
    relative,
    a_link,
    a_link_to_a_link,
    behind_a_dangling_link,
    behind_a_link_elsewhere,
    its_parent_that_looks_like_ours,
    a_folder_of_ours_with_it_inside,
    a_folder_of_ours_with_a_link_to_it,
    a_file_of_ours_that_is_a_link_to_it,
    a_manifest_that_is_a_link,
)
