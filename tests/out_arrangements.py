"""Ways to spell or arrange an --out under which somebody's folder `precious` would be lost."""

import shutil

from omfa_jax.weights.imported_folder import CONTENTS, MANIFEST_FILE

MINE = "years of work"


def use_plain_path(place):
    return place / "precious"


def go_through_new_folder(place):
    return f"{place}/new/../precious"


def go_through_two_new_folders(place):
    return f"{place}/new/newer/../../precious"


def add_slashes(place):
    return f"{place}//precious//"


def add_dots(place):
    return f"{place}/./precious/."


def use_relative_path(place):
    return "absent/../precious"


def make_link(place):
    (place / "link").symlink_to("precious")
    return place / "link"


def make_link_to_link(place):
    make_link(place)
    (place / "second").symlink_to(place / "link")
    return f"{place}/second/"


def go_through_dangling_link(place):
    (place / "dangling").symlink_to("nowhere")
    return f"{place}/dangling/../precious"


def go_through_distant_link(place):
    (place / "far" / "away").mkdir(parents=True)
    (place / "shortcut").symlink_to("far/away")
    return f"{place}/shortcut/../../precious"


def write_output(folder, contents=CONTENTS):
    for name in contents:
        path = folder / name.replace("*", "x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ours")
    return folder


def mark_parent_as_output(place):
    (place / MANIFEST_FILE).write_text("{}")
    return place


def move_into_output(place):
    write_output(place / "ours")
    (place / "precious").rename(place / "ours" / "unet" / "precious")
    (place / "precious").symlink_to("ours/unet/precious")
    return place / "ours"


def link_from_output(place):
    shutil.rmtree(write_output(place / "ours") / "params")
    (place / "ours" / "params").symlink_to(place / "precious")
    return place / "ours"


def replace_file_with_link(place):
    (write_output(place / "ours") / "omfa.json").unlink()
    (place / "ours" / "omfa.json").symlink_to(place / "precious" / "thesis.tex")
    return place / "ours"


def replace_manifest_with_link(place):
    (place / "precious" / "unet").mkdir()
    (place / "precious" / "thesis.tex").rename(place / "thesis.tex")
    (place / "precious" / MANIFEST_FILE).symlink_to("../thesis.tex")
    (place / "precious" / "thesis.tex").symlink_to("../thesis.tex")
    return place / "precious"


ARRANGEMENTS = (
    use_plain_path,
    go_through_new_folder,
    go_through_two_new_folders,
    add_slashes,
    add_dots,
    use_relative_path,
    make_link,
    make_link_to_link,
    go_through_dangling_link,
    go_through_distant_link,
    mark_parent_as_output,
    move_into_output,
    link_from_output,
    replace_file_with_link,
    replace_manifest_with_link,
)
