import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.config_data import Competition, Images
from pipeline.data.paths import list_files, resolve
from pipeline.data.pictures import Pictures
from pipeline.errors import UserError
from pipeline.kaggle import mounts
from pipeline.kaggle.bundle import MARKER
from pipeline.kaggle.mounts import find_bundle, find_competition, folders_below, require_unpacked, unpacked


def section(**changes: Any) -> Competition:
    settings = {"name": "leaves", "root": "input", "id": "id", "target": "label", "metric": "accuracy", "image_path": "images/{id}.png", **changes}
    return Competition.model_validate(settings)


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def zipped(path: Path, inside: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inside, "a picture")


LAYOUTS = ["leaves", "competitions/leaves", "datasets/somebody/leaves", "leaves/leaves/data", "models/somebody/leaves/pytorch/default/1"]
TABLES = ("test.csv", "sample_submission.csv", "images/1.png")


class TestCompetition:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_it_is_found_in_every_layout(self, layout: str, tmp_path: Path) -> None:
        put(tmp_path / "datasets" / "somebody" / "podium-leaves", MARKER)
        expected = put(tmp_path / layout, *TABLES)
        assert find_competition(tmp_path, "leaves", section()) == expected

    def test_the_slug_decides_between_several_even_where_one_table_is_missing(self, tmp_path: Path) -> None:
        put(tmp_path / "competitions" / "older", *TABLES)
        expected = put(tmp_path / "competitions" / "leaves", "sample_submission.csv")
        assert find_competition(tmp_path, "leaves", section()) == expected
        put(tmp_path / "leaves-with-more", *TABLES)
        assert find_competition(tmp_path, "leaves", section()) == expected

    def test_one_of_another_name_is_taken_where_there_is_no_other(self, tmp_path: Path) -> None:
        expected = put(tmp_path / "my-copy", *TABLES)
        assert find_competition(tmp_path, "leaves", section()) == expected

    def test_several_of_other_names_are_named(self, tmp_path: Path) -> None:
        put(tmp_path / "one", *TABLES)
        put(tmp_path / "two", *TABLES)
        with pytest.raises(UserError, match=r"one.*two.*leaves"):
            find_competition(tmp_path, "leaves", section())

    def test_none_says_what_is_there_and_what_to_attach(self, tmp_path: Path) -> None:
        put(tmp_path / "datasets" / "somebody" / "weights", "model.pt")
        with pytest.raises(UserError, match=r"attach the competition leaves .*datasets/somebody/weights"):
            find_competition(tmp_path, "leaves", section())

    def test_a_table_may_be_a_pattern_a_file_in_a_folder_or_zipped(self, tmp_path: Path) -> None:
        pattern = section(test_table="test/{file}", sample_submission=None, image_path=None)
        assert find_competition(put(tmp_path / "a", "x/test/1.png").parent / "a", "leaves", pattern) == tmp_path / "a" / "x"
        deep = section(test_table="tables/test.csv")
        assert find_competition(put(tmp_path / "b", "x/tables/test.csv"), "leaves", deep) == tmp_path / "b" / "x"
        assert find_competition(put(tmp_path / "c", "x/sample_submission.csv.zip"), "leaves", section()) == tmp_path / "c" / "x"

    def test_folders_full_of_pictures_are_not_looked_into(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = put(tmp_path / "leaves", "zz/deep/test.csv", *(f"classes/{number}/1.png" for number in range(400)))
        put(tmp_path / "leaves", *TABLES)
        scanned: list[str] = []
        scan = os.scandir
        monkeypatch.setattr(mounts.os, "scandir", lambda at: scanned.append(str(at)) or scan(at))
        assert find_competition(tmp_path, "leaves", section()) == folder
        assert str(folder / "classes") in scanned
        assert not [at for at in scanned if at.startswith(f"{folder}/classes/")]

    def test_the_walk_is_bounded_in_depth_and_number(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "/".join(["a"] * 30) + "/test.csv", *(f"b{number}/x" for number in range(50)))
        assert len(list(folders_below(tmp_path))) < 70
        monkeypatch.setattr(mounts, "FOLDERS", 10)
        assert len(list(folders_below(tmp_path))) == 10


class TestBundle:
    @pytest.mark.parametrize("layout", [layout.replace("leaves", "podium-leaves") for layout in LAYOUTS])
    def test_it_is_found_in_every_layout(self, layout: str, tmp_path: Path) -> None:
        put(tmp_path / "competitions" / "leaves", *TABLES)
        expected = put(tmp_path / layout, MARKER)
        assert find_bundle(tmp_path) == expected

    def test_the_same_one_at_two_places_is_one_and_different_ones_are_named(self, tmp_path: Path) -> None:
        put(tmp_path / "a", MARKER)
        put(tmp_path / "datasets" / "me" / "a", MARKER)
        assert find_bundle(tmp_path) == tmp_path / "a"
        (tmp_path / "a" / MARKER).write_text("other")
        with pytest.raises(UserError, match="each hold a"):
            find_bundle(tmp_path)

    def test_one_that_nobody_unpacked_is_unpacked(self, tmp_path: Path) -> None:
        source = put(tmp_path / "source", f"dataset/{MARKER}", "dataset/a.yaml")
        (tmp_path / "input" / "podium").mkdir(parents=True)
        put(tmp_path / "input" / "podium", "other.zip")
        shutil.make_archive(str(tmp_path / "input" / "podium" / "bundle"), "zip", source)
        found = find_bundle(tmp_path / "input")
        assert sorted(path.name for path in found.iterdir()) == ["a.yaml", MARKER]
        shutil.rmtree(found.parent)

    def test_none_says_what_is_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is empty"):
            find_bundle(tmp_path)
        put(tmp_path / "competitions" / "leaves", "x")
        with pytest.raises(UserError, match="competitions/leaves"):
            find_bundle(tmp_path)


class TestUnpacked:
    def test_a_competition_without_archives_that_matter_is_read_where_it_is(self, tmp_path: Path) -> None:
        root = put(tmp_path / "leaves", *TABLES, "train.zip", "images.zip")
        competition = section(root=str(root))
        (tmp_path / "own").mkdir()
        assert unpacked(competition, tmp_path / "own") is competition

    @pytest.mark.parametrize("inside", ["images/1.png", "1.png"])
    def test_what_is_missing_is_unpacked_and_the_rest_linked(self, inside: str, tmp_path: Path) -> None:
        root = put(tmp_path / "leaves", "sample_submission.csv", "train.zip")
        with zipfile.ZipFile(root / "images.zip", "w") as archive:
            archive.writestr(inside, "a picture")
        with zipfile.ZipFile(root / "test.csv.zip", "w") as archive:
            archive.writestr("test.csv", "id")
        (tmp_path / "own").mkdir()
        found = unpacked(section(root=str(root)), tmp_path / "own")
        assert (found.root / "images" / "1.png").read_text() == "a picture"
        assert (found.root / "test.csv").read_text() == "id"
        assert (found.root / "sample_submission.csv").resolve() == (root / "sample_submission.csv").resolve()
        assert not (found.root / "train").exists()

    def test_a_hostile_archive_is_refused(self, tmp_path: Path) -> None:
        root = put(tmp_path / "leaves", "test.csv", "sample_submission.csv")
        with zipfile.ZipFile(root / "images.zip", "w") as archive:
            archive.writestr("../1.png", "a picture")
        (tmp_path / "own").mkdir()
        with pytest.raises(UserError, match="not to be trusted"):
            unpacked(section(root=str(root)), tmp_path / "own")

    @pytest.mark.parametrize("template", ["**/{id}.png", "{split}/{id}.*"])
    def test_linked_folders_are_searched_for_pictures(self, template: str, tmp_path: Path) -> None:
        root = put(tmp_path / "leaves", "test.csv", "test/1.png")
        zipped(root / "sample_submission.csv.zip", "sample_submission.csv")
        (tmp_path / "own").mkdir()
        found = unpacked(section(root=str(root), image_path=template), tmp_path / "own")
        assert (found.root / "test").is_symlink()
        assert resolve(found.root, template, [template.format(split="test", id="1")]) == ["test/1.png"]
        assert Pictures(found, Images()).problem("test/1.png") == ""

    def test_the_zip_of_a_split_is_unpacked_beside_the_other_split(self, tmp_path: Path) -> None:
        root = put(tmp_path / "leaves", "test.csv", "sample_submission.csv", "images/train/1.png")
        for inside in ("2.png", "test/2.png"):
            zipped(root / "images" / "test.zip", inside)
            own = tmp_path / inside.replace("/", "-")
            own.mkdir()
            found = unpacked(section(root=str(root), image_path="images/{split}/{id}.png"), own)
            assert (found.root / "images" / "test" / "2.png").read_text() == "a picture"
            assert (found.root / "images" / "train" / "1.png").exists()

    @pytest.mark.parametrize("name", ["train.csv", "images/train", "images/test", "sample_submission.csv"])
    def test_what_training_would_read_from_a_zip_is_refused(self, name: str, tmp_path: Path) -> None:
        root = put(tmp_path / "leaves", "train.csv", "test.csv", "sample_submission.csv", "images/train/1.png", "images/test/1.png")
        competition = section(root=str(root), image_path="images/{split}/{id}.png")
        require_unpacked(competition)
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
        zipped(root / f"{name}.zip", "x")
        with pytest.raises(UserError, match=f"{name}.zip is not unpacked, and the training notebook wants unpacked files"):
            require_unpacked(competition)


def test_links_are_followed_at_the_top_and_out_of_the_folder_alone(tmp_path: Path) -> None:
    root, outside = put(tmp_path / "root", "images/1.png"), put(tmp_path / "outside", "2.png", "deep/3.png")
    (outside / "deep" / "again").symlink_to(outside)
    for name, target in (("linked", outside), ("copy", root / "images"), ("above", tmp_path), ("gone", tmp_path / "gone")):
        (root / name).symlink_to(target)
    (root / "images" / "deeper").symlink_to(outside)
    assert [path for path in list_files(root) if path != "gone"] == ["images/1.png", "linked/2.png", "linked/deep/3.png"]


def test_a_folder_that_is_passed_over_does_not_use_the_walk_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"a/{number}/x/y" for number in range(20)), "b/c/d")
    monkeypatch.setattr(mounts, "FOLDERS", 10)
    assert tmp_path / "b" / "c" not in list(folders_below(tmp_path))
    assert tmp_path / "b" / "c" in list(folders_below(tmp_path, tmp_path / "a"))
