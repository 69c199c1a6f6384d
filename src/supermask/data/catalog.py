"""The data sets that can be asked for by name: where they come from, what their files are called, and their checksums.

Checksums are written ``md5:...`` where the source publishes MD5s and ``sha256:...`` where they were computed from files
whose published MD5 was verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Reader = Literal["idx", "cifar-binary", "cifar-python"]


@dataclass(frozen=True)
class DataFile:
    """One official file.

    Attributes:
        name: Its official name.
        checksum: ``md5:`` or ``sha256:`` and the digest in hexadecimal; None where none is known, in which case only
            its length and its labels can be checked.
    """

    name: str
    checksum: str | None


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on a disk.

    Attributes:
        reader: The format of its files.
        folders: Folders below a data folder that are searched, in this order.
        train: The files of the training split: of ``idx`` the images and the labels, otherwise the batches in order.
        test: The files of the test split, likewise.
        archive: The ``.tar.gz`` that holds the same files and can stand in for them.
    """

    reader: Reader
    folders: tuple[str, ...]
    train: tuple[DataFile, ...]
    test: tuple[DataFile, ...]
    archive: DataFile | None = None


@dataclass(frozen=True)
class DataInfo:
    """What is known about a data set before any of its files is read.

    Attributes:
        name: Its name in experiment files and on the command line.
        summary: One line.
        source: Where it is described.
        licence: As its source states it.
        classes: Class names; empty for an own data set.
        input_shape: (C, H, W); None for an own data set.
        sizes: Numbers of training and test images; None for an own data set.
        files: The files as they are downloaded; empty where nothing is.
        mirrors: Addresses under which ``files`` are found, tried in this order.
        layouts: How its files may lie on a disk, searched in this order.
        folders: Folders below a data folder that are searched for a tree of image files, see
            :mod:`supermask.data.imagenet`; empty for other sets.
        options: Options of :func:`supermask.data.load` for this data set, with their defaults; a default of ``...``
            means that the option must be given.
        checksum: Expected :func:`supermask.data.dataset.content_checksum`; None where it cannot be known.
    """

    name: str
    summary: str
    source: str
    licence: str
    classes: tuple[str, ...] = ()
    input_shape: tuple[int, int, int] | None = None
    sizes: tuple[int, int] | None = None
    files: tuple[DataFile, ...] = ()
    mirrors: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    folders: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    checksum: str | None = None


_DIGITS: Final = tuple("0123456789")


def _idx(folders: tuple[str, ...], digests: tuple[str, str, str, str]) -> tuple[Layout, ...]:
    """The layout of MNIST; the checksums are those of the files without gzip, which every form of a file reduces to."""
    train_images, train_labels, test_images, test_labels = (f"sha256:{digest}" for digest in digests)
    train = (DataFile("train-images-idx3-ubyte", train_images), DataFile("train-labels-idx1-ubyte", train_labels))
    test = (DataFile("t10k-images-idx3-ubyte", test_images), DataFile("t10k-labels-idx1-ubyte", test_labels))
    return (Layout("idx", folders, train, test),)


def _gz(digests: tuple[str, str, str, str]) -> tuple[DataFile, ...]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return tuple(DataFile(f"{name}.gz", f"md5:{digest}") for name, digest in zip(names, digests))


MNIST: Final = DataInfo(
    name="mnist",
    summary="handwritten digits, 60,000 + 10,000 grey images of 28 x 28, 10 classes",
    source="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    classes=_DIGITS,
    input_shape=(1, 28, 28),
    sizes=(60000, 10000),
    files=_gz((
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    )),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    layouts=_idx(
        ("mnist", "MNIST/raw", "MNIST"),
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)  # fmt: skip

FASHION_MNIST: Final = DataInfo(
    name="fashion-mnist",
    summary="articles of clothing, 60,000 + 10,000 grey images of 28 x 28, 10 classes",
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    input_shape=(1, 28, 28),
    sizes=(60000, 10000),
    files=_gz((
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    layouts=_idx(
        ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist"),
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
)  # fmt: skip

CIFAR10: Final = DataInfo(
    name="cifar10",
    summary="photographs of objects, 50,000 + 10,000 RGB images of 32 x 32, 10 classes",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    input_shape=(3, 32, 32),
    sizes=(50000, 10000),
    files=(DataFile("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    layouts=(
        Layout(
            "cifar-binary",
            ("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10"),
            train=(
                DataFile("data_batch_1.bin", "md5:5dd7e06a14cb22eb9f671a540d1b7c25"),
                DataFile("data_batch_2.bin", "md5:5ea93a67294ea407fff1d09f752e9692"),
                DataFile("data_batch_3.bin", "md5:942cd6a4bcdd0dd3c604fbe906cb4421"),
                DataFile("data_batch_4.bin", "md5:ae636b3ba5c66a11e91e8cb52e771fcb"),
                DataFile("data_batch_5.bin", "md5:53f37980c15c3d472c316c40844f3f0d"),
            ),
            test=(DataFile("test_batch.bin", "md5:803d5f7f4d78ea53de84dbe85f74fb6d"),),
            archive=DataFile("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),
        ),
        Layout(
            "cifar-python",
            ("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10"),
            train=(
                DataFile("data_batch_1", "md5:c99cafc152244af753f735de768cd75f"),
                DataFile("data_batch_2", "md5:d4bba439e000b95fd0a9bffe97cbabec"),
                DataFile("data_batch_3", "md5:54ebc095f3ab1f0389bbae665268c751"),
                DataFile("data_batch_4", "md5:634d18415352ddfa80567beed471001a"),
                DataFile("data_batch_5", "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
            test=(DataFile("test_batch", "md5:40351d587109b95175f43aff81a1287e"),),
            archive=DataFile("cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),
        ),
    ),
)

_CIFAR100_CLASSES: Final = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100: Final = DataInfo(
    name="cifar100",
    summary="photographs of objects, 50,000 + 10,000 RGB images of 32 x 32, 100 (fine) classes",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    classes=tuple(_CIFAR100_CLASSES.split()),
    input_shape=(3, 32, 32),
    sizes=(50000, 10000),
    files=(DataFile("cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),),
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    layouts=(
        Layout(
            "cifar-python",
            ("cifar-100-python", "cifar100/cifar-100-python", "cifar100"),
            train=(DataFile("train", "md5:16019d7e3df5f24257cddd939b257f8d"),),
            test=(DataFile("test", "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"),),
            archive=DataFile("cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),
        ),
        Layout(
            "cifar-binary",
            ("cifar-100-binary", "cifar100/cifar-100-binary", "cifar100"),
            # their source publishes the checksum of the archive only
            train=(DataFile("train.bin", None),),
            test=(DataFile("test.bin", None),),
            archive=DataFile("cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"),
        ),
    ),
)

DIGITS: Final = DataInfo(
    name="digits",
    summary="scikit-learn's optical digits, 1,437 + 360 grey images of 8 x 8, 10 classes; nothing to download",
    source="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    licence="CC BY 4.0",
    classes=_DIGITS,
    input_shape=(1, 8, 8),
    sizes=(1437, 360),
    # computed with scikit-learn 1.9.1, split as in supermask.data.digits
    checksum="48fedf5dd525ab4871a6d7d79ccfc18984cb48e8784a5d43d5a47a8b877c12f4",
)

TINY_IMAGENET: Final = DataInfo(
    name="tiny-imagenet",
    summary="photographs, 100,000 + 10,000 RGB images of 64 x 64, 200 of ImageNet's classes; or some of these classes",
    source="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    licence="none stated; images of ImageNet, for non-commercial research and education",
    input_shape=(3, 64, 64),
    sizes=(100000, 10000),
    folders=("tiny-imagenet-200", "tiny-imagenet"),
    options={"classes": 200},
)

IMAGENET: Final = DataInfo(
    name="imagenet",
    summary="photographs, 1,281,167 + 50,000 RGB images (ILSVRC 2012), 1,000 classes; or some of these classes",
    source="https://image-net.org/download",
    licence="ImageNet's terms of access: non-commercial research and education, after registration",
    input_shape=(3, 224, 224),
    sizes=(1281167, 50000),
    folders=("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "imagenet/ILSVRC/Data/CLS-LOC"),
    options={"classes": 1000, "size": 256, "crop": 224},
)

NPZ: Final = DataInfo(
    name="npz",
    summary="an own data set: one .npz file of images and labels",
    source="a file of yours",
    licence="yours",
    options={"file": ..., "layout": "auto", "test_fraction": None, "split_seed": 0},
)

FOLDER: Final = DataInfo(
    name="folder",
    summary="an own data set: a folder of images for each class",
    source="a folder of yours",
    licence="yours",
    options={"path": ..., "size": None, "channels": None, "test_fraction": None, "split_seed": 0},
)

WEBDATASET: Final = DataInfo(
    name="webdataset",
    summary="an own data set: WebDataset shards of images and class numbers",
    source="files of yours",
    licence="yours",
    options={"shards": ..., "classes": ..., "train": "*train*.tar", "test": "*val*.tar", "size": 256, "crop": 224},
)

DATASETS: dict[str, DataInfo] = {
    info.name: info
    for info in (
        *(MNIST, FASHION_MNIST, CIFAR10, CIFAR100, DIGITS, TINY_IMAGENET, IMAGENET),
        *(NPZ, FOLDER, WEBDATASET),
    )
}
