"""Labels of any type as numbers, or one line that says why they are none."""

import math

import pytest

from racecar.study.core.errors import StudyError
from racecar.study.images import labels
from racecar.study.images.found import Part
from racecar.study.images.rows import Files


def part(values: list[object], names: tuple[str, ...] | None = None) -> Part:
    return Part(Files.of("", ["x"] * len(values)), values, names)


@pytest.mark.parametrize(
    ("values", "names", "numbers", "classes", "word"),
    [
        ([1, 0, 1], None, [1, 0, 1], ("0", "1"), ""),
        ([1, 3, 2, 3], None, [0, 2, 1, 2], ("1", "2", "3"), "labels 1 to 3 are numbered anew"),
        ([9 * 10**9, 0, 0], None, [1, 0, 0], ("0", "9000000000"), "labels 0 to 9000000000 are numbered anew"),
        ([2.0, 1.0, 0.0, 0.0], None, [2, 1, 0, 0], ("0", "1", "2"), ""),
        (["b", "a", "b"], None, [1, 0, 1], ("a", "b"), ""),
        ([True, False, True], None, [1, 0, 1], ("False", "True"), ""),
        (["b", 1, "b"], None, [1, 0, 1], ("1", "b"), ""),
        ([1, 1, 0], ("x", "y", "z"), [1, 1, 0], ("x", "y", "z"), ""),
        (["y", "x"], ("x", "y"), [1, 0], ("x", "y"), ""),
    ],
)
def test_labels_become_numbers_from_0(values, names, numbers, classes, word) -> None:
    found, named, said = labels.of_training(part(values, names), "d")
    assert (found.tolist(), named) == (numbers, classes)
    assert said.startswith(word) if word else said == ""


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        ([0.5, 1.0], None, r"quantities \(0\.5 in row 0\): regression"),
        ([0, math.inf], None, "quantities"),
        ([0, None, 1], None, "1 labels are missing in d, the first in row 1"),
        ([0.0, math.nan], None, "1 labels are missing in d, the first in row 1"),
        (["a", ""], None, "1 labels are missing"),
        ([[0, 1], [1]], None, r"are lists \(row 0\): several labels per image"),
        (
            [0, -1, 1],
            None,
            "1 labels in d are outside 0 to 1 .*-1 in row 1; -1 stands for a label that is not published",
        ),
        ([0, 3], ("a", "b"), "1 labels in d are outside 0 to 1"),
        (["a", "c"], ("a", "b"), "none of its classes: c"),
        ([b"a", b"b"], None, "labels in d are bytes"),
        ([4, 8, 9], None, "different for every image"),
        (["u", "v", "w"], None, "different for every image"),
    ],
)
def test_what_is_no_label_is_refused(values, names, said) -> None:
    with pytest.raises(StudyError, match=said):
        labels.of_training(part(values, names), "d")


def test_validation_is_numbered_as_training_is() -> None:
    assert labels.of_validation(part([3, 1]), ("1", "2", "3"), "d").tolist() == [2, 0]
    assert labels.of_validation(part(["b"]), ("a", "b"), "d").tolist() == [1]
    assert labels.of_validation(part([1, 0], ("z", "a")), ("a", "z"), "d").tolist() == [0, 1]
    with pytest.raises(StudyError, match=r"validation holds 7, of which training has no image"):
        labels.of_validation(part([7]), ("1", "2"), "d")
    with pytest.raises(StudyError, match=r"1 labels in d are outside 0 to 1 .*: the first is 7 in row 0"):
        labels.of_validation(part([7]), ("0", "1"), "d")
