import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.download import CorruptData, MissingData
from datasets.images import celeba
from datasets.images.celeba import CelebA, pack_images, read_partition
from datasets.images.generative import ResizedMNIST, UnlabelledFolder, read_centre, resize


def noise(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_resizing_is_pils_bilinear_filter_on_bytes():
    images = noise(3, 2, 28, 28)
    found = resize(images, 32)
    assert found.dtype == torch.uint8
    for image, one in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        expected = np.asarray(Image.fromarray(image.numpy()).resize((32, 32), Image.Resampling.BILINEAR))
        assert np.array_equal(one, expected)
    assert resize(images, 28) is images
    assert resize(torch.full((1, 1, 28, 28), 7, dtype=torch.uint8), 32).unique().tolist() == [7]


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_mnist_comes_at_32_pixels(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        write_idx(raw / f"{part}-images-idx3-ubyte.gz", noise(count, 28, 28).numpy())
        write_idx(raw / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    data = ResizedMNIST(root=tmp_path, batch_size=4)
    data.setup()
    assert data.dims["image_size"] == 32
    assert data.train_images.shape == (12, 1, 32, 32)
    assert torch.equal(data.parts["test"].images, resize(noise(5, 28, 28)[:, None], 32))
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (4, 1, 32, 32)
    with pytest.raises(ValueError, match=r"dataset\.size must be positive"):
        ResizedMNIST(size=0)


def test_the_centre_of_a_photograph_is_kept(tmp_path):
    photograph = noise(218, 178, 3).numpy()
    Image.fromarray(photograph).save(tmp_path / "face.png")
    found = read_centre(tmp_path / "face.png", 148, crop=148)
    assert np.array_equal(found.permute(1, 2, 0), photograph[35:183, 15:163])
    assert read_centre(tmp_path / "face.png", 64).shape == (3, 64, 64)
    with pytest.raises(CorruptData, match="too few for a crop of 200"):
        read_centre(tmp_path / "face.png", 64, crop=200)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(CorruptData, match=r"broken\.jpg is no image"):
        read_centre(tmp_path / "broken.jpg", 64)


def test_every_tenth_file_of_a_folder_is_a_test_image(tmp_path):
    for i in range(25):
        folder = tmp_path / "photos" / f"s{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 16), i, np.uint8)).save(folder / f"{i:02}.pgm")
    data = UnlabelledFolder(folder="photos", size=8, channels=1, root=tmp_path, batch_size=4)
    data.setup()
    assert data.task == "image-generation"
    assert [len(data.parts[name].labels) for name in ("train", "test")] == [23, 2]
    every = sorted(torch.cat([data.parts[name].images for name in ("train", "test")])[:, 0, 0, 0].tolist())
    assert every == list(range(25))


def test_pictures_to_predict_are_read_as_the_training_images_are(tmp_path, faces):
    Image.fromarray(noise(20, 16, 3, seed=1).numpy()).save(tmp_path / "a.png")
    Image.fromarray(noise(16, 24, 3, seed=2).numpy()).save(tmp_path / "b.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    folder = UnlabelledFolder(folder=str(tmp_path), size=8, test_every=2, root=tmp_path)
    photographs = CelebA(root=faces, expect={}, size=16, batch_size=3)
    for data, files in ((folder, [tmp_path / "b.png"]), (photographs, [faces / "celeba/img_align_celeba/000011.jpg"])):
        data.setup()
        for image, file in zip(data.parts["test"].images, files, strict=False):
            assert torch.equal(data.read_picture(file), image)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(MissingData, match="image folder none"):
        UnlabelledFolder(folder="none", root=tmp_path).setup()
    with pytest.raises(ValueError, match="must be 1 or 3"):
        UnlabelledFolder(folder="none", channels=2)
    with pytest.raises(ValueError, match="at least 2"):
        UnlabelledFolder(folder="none", test_every=1)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(CorruptData, match=r"1 images, fewer than dataset\.test_every=10"):
        UnlabelledFolder(folder=".", root=tmp_path).setup()


COUNTS = {"train": 7, "val": 3, "test": 2}


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    lines, number = [], 0
    for part, (_, count) in enumerate(COUNTS.items()):
        for _ in range(count):
            number += 1
            Image.fromarray(noise(218, 178, 3, seed=number).numpy()).save(folder / f"{number:06}.jpg", quality=95)
            lines.append(f"{number:06}.jpg {part}")
    (tmp_path / "celeba/list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_celeba_is_packed_once_and_memory_mapped(faces, monkeypatch):
    data = CelebA(root=faces, expect={"train": 7, "test": 2}, size=16, batch_size=3)
    data.setup()
    assert {name: len(part.labels) for name, part in data.parts.items()} == COUNTS
    assert data.dims["image_size"] == 16
    expected = read_centre(faces / "celeba/img_align_celeba/000008.jpg", 16, crop=148)
    assert torch.equal(data.parts["val"].images[0], expected)
    assert next(iter(data.train_dataloader())).x.shape == (3, 3, 16, 16)

    monkeypatch.setattr(celeba, "read_centre", None)  # the second time nothing is read
    again = CelebA(root=faces, size=16, limit_train=4)
    again.setup()
    assert len(again.parts["train"].labels) == 4
    packed = np.load(again.packed_path("train"), mmap_mode="r")
    assert packed.shape == (7, 3, 16, 16)


def test_packing_goes_on_where_it_was_interrupted(faces, monkeypatch):
    monkeypatch.setattr(celeba, "CHUNK", 2)
    files = sorted((faces / "celeba/img_align_celeba").glob("*.jpg"))
    read = []

    def interrupted(path, *sizes):
        if len(read) == 5:
            raise KeyboardInterrupt
        read.append(path)
        return read_centre(path, *sizes)

    monkeypatch.setattr(celeba, "read_centre", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_images(files, faces / "packed.npy", 8, 148)
    assert not (faces / "packed.npy").exists()
    read.clear()
    monkeypatch.setattr(celeba, "read_centre", lambda path, *sizes: read.append(path) or read_centre(path, *sizes))
    pack_images(files, faces / "packed.npy", 8, 148)
    assert read == files[4:]  # two whole chunks were kept
    expected = torch.stack([read_centre(path, 8, 148) for path in files])
    assert np.array_equal(np.load(faces / "packed.npy"), expected)
    assert sorted(path.name for path in faces.iterdir()) == ["celeba", "packed.npy"]


def test_packing_starts_anew_for_other_files(faces, monkeypatch):
    files = sorted((faces / "celeba/img_align_celeba").glob("*.jpg"))
    np.save(faces / "packed.npy.part.npy", np.ones((20, 3, 8, 8), np.uint8))
    (faces / "packed.npy.part.npy").rename(faces / "packed.npy.part")
    (faces / "packed.npy.count").write_text("4")
    pack_images(files, faces / "packed.npy", 8, 148)
    expected = torch.stack([read_centre(path, 8, 148) for path in files])
    assert np.array_equal(np.load(faces / "packed.npy"), expected)


def test_bad_copies_of_celeba_are_refused(faces, tmp_path):
    with pytest.raises(CorruptData, match="is incomplete"):
        CelebA(root=faces, expect={"train": 162_770}, size=8).setup()
    with pytest.raises(MissingData, match="CelebA"):
        CelebA(root=tmp_path / "nothing").setup()
    partition = faces / "celeba/list_eval_partition.txt"
    partition.write_text("000001.jpg 7\n")
    with pytest.raises(CorruptData, match="line 1: expected"):
        read_partition(partition)
    partition.write_text("../evil.jpg 0\n")
    with pytest.raises(CorruptData, match="line 1: expected"):
        read_partition(partition)
    partition.write_text("000001.jpg 0\n")
    with pytest.raises(CorruptData, match="no images of the parts val, test"):
        read_partition(partition)
    with pytest.raises(ValueError, match=r"dataset\.crop must be positive"):
        CelebA(crop=0)


def test_att_faces_come_at_64_pixels(runner_data):
    if not (runner_data / "images/att_faces").is_dir():
        pytest.skip("no AT&T faces")
    data = UnlabelledFolder(folder="images/att_faces", channels=1, root=runner_data, expect={"train": 360, "test": 40})
    data.setup()
    assert data.train_images.shape == (360, 1, 64, 64)
