"""Cases of `runai_cases.py` about listing and pulling."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.support.runai_told import FILES, OBJECTS, Case, Steps, Told, both, case, named


def listed(api: Any, root: str, prefix: str, **options: Any) -> Steps:
    told = Told(root)
    told("list_files", lambda: named(api.FileStreamer().list_files(prefix, **options)))
    return told.steps


def found(api: Any, root: str, path: str) -> Steps:
    told = Told(root)
    told("list_safetensors", lambda: named(api.list_safetensors(path)))
    return told.steps


def pulled(api: Any, root: str, source: str, *patterns: list[str] | None) -> Steps:
    told = Told(root)
    with tempfile.TemporaryDirectory() as dst:
        told("pull_files", lambda: api.pull_files(source, dst, *patterns))
        files = (str(one.relative_to(dst)) for one in Path(dst).rglob("*") if one.is_file())
        told("brought", lambda: sorted(files))
    return told.steps


def _listed(api: Any, path: str) -> list[Any]:
    return named(api.list_safetensors(path))


def _names(directory: str) -> list[str]:
    return sorted(os.listdir(directory))


# --- listing --------------------------------------------------------------------------------------


def _listing_case(
    title: str, tables: tuple[dict[str, Case], ...], tail: str, **options: Any
) -> None:
    def run(api: Any, root: str) -> Steps:
        return listed(api, root, root + tail, **options)

    run.__doc__ = title
    case(*tables)(run)


for _tail, _title in {
    "/m": "a prefix that others share (`m`, beside `m2` and `mm`)",
    "/m/": "a prefix with its slash",
    "/m/one": "the beginning of a name",
    "/m/one.safetensors": "one file",
    "/m/deep": "a folder of folders",
    "/none": "nothing",
}.items():
    _listing_case(f"list_files of {_title}", both, _tail)
    _listing_case(f"list_files of {_title}, not recursive", both, _tail, is_recursive=False)
_listing_case("list_files with allow_patterns=[]", both, "/m/", allow_patterns=[])
_listing_case("list_files with ignore_patterns=[]", both, "/m/", ignore_patterns=[])
_listing_case(
    "list_files with a pattern of a bare name", both, "/m/", allow_patterns=["config.json"]
)
_listing_case(
    "list_files with a pattern", both, "/m/", allow_patterns=["*.json"], ignore_patterns=["*more*"]
)
_listing_case("list_files of a whole bucket", (OBJECTS,), "/")


def _found_case(title: str, tables: tuple[dict[str, Case], ...], tail: str) -> None:
    def run(api: Any, root: str) -> Steps:
        return found(api, root, root + tail)

    run.__doc__ = f"list_safetensors of {title}"
    case(*tables)(run)


for _tail, _title in {
    "/m": "a folder",
    "/m/": "a folder with its slash",
    "/m/one.safetensors": "a file",
    "/m/one": "the beginning of a name",
    "/none": "nothing",
}.items():
    _found_case(_title, both, _tail)


@case(OBJECTS)
def missing_bucket(api: Any, root: str) -> Steps:
    """A bucket that is not there."""
    none = "s3://no-such-bucket/m"
    told = Told(root)
    told("list_safetensors", lambda: api.list_safetensors(none))
    told("list_files", lambda: api.FileStreamer().list_files(none))
    with tempfile.TemporaryDirectory() as dst:
        told("pull_files", lambda: api.pull_files(none, dst))
    with api.SafetensorsStreamer() as streamer:
        told("stream_file", lambda: streamer.stream_file(f"{none}/x.safetensors"))
    return told.steps


@case(FILES)
def relative_paths(api: Any, root: str) -> Steps:
    """Relative paths."""
    told = Told(root)
    os.chdir(root)
    for path in ("m", "m/", "./m", "m/../m", "."):
        told(f"list_safetensors({path!r})", _listed, api, path)
    told("list_files('m2')", lambda: named(api.FileStreamer().list_files("m2")))
    with api.SafetensorsStreamer() as streamer:
        streamer.stream_file("m/one.safetensors")
        told("get_tensors", lambda: len(list(streamer.get_tensors())))
    return told.steps


_listing_case(
    "list_files with patterns of other kinds", both, "/m/", allow_patterns=["*/[ot]??.safetensors"]
)
_listing_case("list_files with a pattern in capitals", both, "/m/", allow_patterns=["*.JSON"])
_listing_case("list_files of a prefix with two slashes", (OBJECTS,), "/slashes//")
_listing_case("list_files of odd names", (OBJECTS,), "/odd/")
_found_case("a prefix with markers of folders", (OBJECTS,), "/markers")
_found_case("names with odd characters", (OBJECTS,), "/odd")


@case(FILES)
def links(api: Any, root: str) -> Steps:
    """Links, hidden names and names of other cases in a folder."""
    told = Told(root)
    folder = Path(root, "links")
    folder.mkdir(exist_ok=True)
    for name in ("b.safetensors", ".hidden.safetensors", "c.SafeTensors", "d.safetensors.x"):
        (folder / name).touch()
    for name, target in (("a.safetensors", "b.safetensors"), ("folder", "../m2")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    told("list_safetensors", _listed, api, str(folder))
    told("list_safetensors of a linked folder", _listed, api, str(folder / "folder"))
    told("list_files", lambda: named(api.FileStreamer().list_files(str(folder))))
    (folder / "dead.safetensors").symlink_to("none")
    told("list_safetensors with a dead link", _listed, api, str(folder))
    told("list_files with a dead link", lambda: named(api.FileStreamer().list_files(str(folder))))
    return told.steps


# --- pulling --------------------------------------------------------------------------------------


def _pull_case(title: str, tail: str, *patterns: list[str] | None) -> None:
    def run(api: Any, root: str) -> Steps:
        return pulled(api, root, root + tail, *patterns)

    run.__doc__ = f"pull_files of {title}"
    case(OBJECTS)(run)


_pull_case("keys with two slashes", "/slashes/")
_pull_case("a prefix with markers of folders", "/markers")
_pull_case("a prefix", "/m2")
_pull_case("nothing", "/none")
_pull_case("one object", "/m/one.safetensors")
_pull_case("a prefix with allow_pattern=[]", "/m", [])
_pull_case("a prefix with ignore_pattern=[]", "/m2", None, [])
_pull_case("a pattern of a bare name", "/m", ["config.json"])
_pull_case("two patterns", "/m/", ["*.json"], ["*more*"])


_pull_case("names with odd characters", "/odd/")
_pull_case("a prefix with two slashes", "/slashes//")


@case(OBJECTS)
def places_to_pull_to(api: Any, root: str) -> Steps:
    """Where files are pulled to."""
    told = Told(root)
    with tempfile.TemporaryDirectory() as home:
        told("a folder that is not there", api.pull_files, f"{root}/m2", f"{home}/deep/er/")
        told("brought", _names, f"{home}/deep/er")
        Path(home, "there").mkdir()
        Path(home, "there", "other.safetensors").write_text("an earlier and longer one")
        told("over an earlier file", api.pull_files, f"{root}/m2", f"{home}/there")
        told("then it holds", Path(home, "there", "other.safetensors").read_text)
        Path(home, "file").touch()
        told("a file in the way", api.pull_files, f"{root}/m2", f"{home}/file")
    return told.steps


@case(FILES)
def pulling_a_folder(api: Any, root: str) -> Steps:
    """pull_files of a folder."""
    return pulled(api, root, f"{root}/m2")


@case(OBJECTS)
def mirror(api: Any, root: str) -> Steps:
    """ObjectStorageModel."""
    told = Told(root)
    with tempfile.TemporaryDirectory() as home:
        for number, pattern in enumerate(["*.json", "*.zzz"]):
            model = api.ObjectStorageModel(f"{root}/m", f"{home}/{number}/")
            told("pull_files", model.pull_files, [pattern])
            told("leaving", model.__exit__, None, None, None)
            told("brought", _names, f"{home}/{number}")
        told("of a folder", lambda: api.ObjectStorageModel(home, f"{home}/x"))
    return told.steps
