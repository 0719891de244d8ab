"""The VGG19 study as a command."""

from racecar.study.classification.spec import classification_study
from racecar.study.vgg.experiment import Vgg

SPEC = classification_study(
    Vgg(),
    "VGG19 on ImageNet, Table 15, or on any images (Sections 5.4 and A.5)",
    data="a hub name, a folder of images by class, a folder with parquet files, or a .parquet file",
    recipe=None,
)
