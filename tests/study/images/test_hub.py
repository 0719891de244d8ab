"""What ``datasets`` reads: saved folders, parquet, the hub, which is asked once and not in silence."""

import pickle
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images.find import find, pictures
from racecar.study.images.load import load

from .conftest import draw, plain


def quiet(text: str) -> None:
    pass


def table(count: int = 8, first: int = 0, labels: tuple[int, int] = (0, 1)) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])})
    images = [Image.new("RGB", (4, 4), (first + i, 0, 0)) for i in range(count)]
    return datasets.Dataset.from_dict({"image": images, "label": [*labels] * (count // 2)}, features=features)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path / "one"))
    found = find(str(tmp_path / "one"), tell=quiet)
    assert (len(found.train), len(found.validation), found.classes) == (6, 2, ("cat", "dog", "eel"))
    assert found.sentence().endswith("1 class without an image: eel")
    splits = datasets.DatasetDict({"train": table(), "test": table(4, 100)})
    splits.save_to_disk(str(tmp_path / "two"))
    loaded = load(str(tmp_path / "two"), tell=quiet)
    assert loaded.train.pixels[:, 0, 0, 0].tolist() == list(range(8))
    assert loaded.validation.pixels[:, 0, 0, 0].tolist() == [100, 101, 102, 103]
    assert loaded.about()["validation"] == {"images": 4, "classes": {"cat": 2, "dog": 2, "eel": 0}, "split": "test"}


def test_encoded_rows_survive_a_pickle(tmp_path: Path) -> None:
    table().to_parquet(str(tmp_path / "d.parquet"))
    found = find(str(tmp_path / "d.parquet"), tell=quiet)
    again = pickle.loads(pickle.dumps(found))
    assert [again.train.rows[i] for i in range(6)] == [found.train.rows[i] for i in range(6)]
    assert torch.equal(again.validation.labels, found.validation.labels)


def test_a_split_that_is_not_called_train_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"fold": table()}).save_to_disk(str(tmp_path / "d"))
    assert "train 6 (split fold) / validation 2" in find(str(tmp_path / "d"), tell=quiet).sentence()


def test_a_test_split_with_labels_that_are_not_published_is_not_measured_on(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"train": table(), "test": table(4, 100, (-1, -1))})
    splits.save_to_disk(str(tmp_path / "d"))
    found = find(str(tmp_path / "d"), tell=quiet)
    assert (len(found.train), len(found.validation), found.validation_split) == (6, 2, None)
    assert "not used: test, whose labels are not published" in found.sentence()
    with pytest.raises(StudyError, match="-1 stands for a label that is not published"):
        find(str(tmp_path / "d"), validation="test", tell=quiet)


def test_lists_of_labels_are_refused_by_name(tmp_path: Path) -> None:
    images = [Image.new("RGB", (4, 4))] * 3
    features = datasets.Features({"image": datasets.Image(), "label": datasets.List(datasets.Value("int64"))})
    rows = {"image": images, "label": [[0], [0, 1], [1]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "d.parquet"))
    with pytest.raises(StudyError, match="several labels per image"):
        find(str(tmp_path / "d.parquet"), tell=quiet)


def test_parquet_and_images_in_one_folder_are_refused(tmp_path: Path) -> None:
    plain(tmp_path)
    table().to_parquet(str(tmp_path / "d.parquet"))
    with pytest.raises(StudyError, match="holds 1 parquet and 8 image files: give the folder of either alone"):
        find(str(tmp_path), tell=quiet)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "a/b/c", "no where", "../x", "d/"])
def test_what_cannot_be_a_name_on_the_hub_is_no_question_to_it(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("asked"))
    with pytest.raises(StudyError, match="does not exist"):
        find(source, tell=quiet)


def test_the_nearest_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(StudyError, match=r"photo does not exist \(is .*/photos meant\?\)"):
        find(str(tmp_path / "photo"), tell=quiet)


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: object, name: str, timeout: float) -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    said: list[str] = []
    begun = time.monotonic()
    with pytest.raises(StudyError, match=r"nobody/nothing is no folder here, and the hub cannot be reached"):
        find("nobody/nothing", tell=said.append)
    assert time.monotonic() - begun < 10
    assert said == ["nobody/nothing: no folder of that name here, asking the Hugging Face hub for a data set called so"]


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: object, name: str, timeout: float) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unknown)
    with pytest.raises(StudyError, match="neither a folder here nor a data set on the hub"):
        find("nobody/nothing", tell=quiet)


def test_pictures_need_no_labels(tmp_path: Path) -> None:
    draw(tmp_path, 3)
    draw(tmp_path / "a" / "b", 2)
    assert len(pictures(str(tmp_path)).rows) == 5
    (tmp_path / "e").mkdir()
    with pytest.raises(StudyError, match="is empty"):
        pictures(str(tmp_path / "e"))
