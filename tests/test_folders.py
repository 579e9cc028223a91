"""Folders of labelled pictures: classes, splits, and the face cut out of them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from streamface.card import InputSpec
from streamface.errors import SourceError
from streamface.frame import EMOTIONS, GENDERS
from streamface.preprocess import crop_into
from streamface.training import data
from streamface.training.folders import FaceFinder, cut, list_pictures, planes_of


def save(path, picture=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((48, 48), len(path.name), np.uint8) if picture is None else picture
    Image.fromarray(picture).save(path)


def noise(seed, shape=(48, 48)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_classes_directly_in_the_folder_are_training_with_a_tenth_held_out(tmp_path):
    for i in range(100):
        save(tmp_path / "Happiness" / f"{i}.png")
        save(tmp_path / "sad" / f"{i}.jpg")
    (tmp_path / "sad" / "notes.txt").write_text("no picture")
    listed = list_pictures(tmp_path, EMOTIONS, "emotion")
    assert len(listed) == 200
    assert {EMOTIONS[item.label] for item in listed} == {"happy", "sad"}
    held_out = [item for item in listed if item.split == "val"]
    assert 8 <= len(held_out) <= 35
    assert list_pictures(tmp_path, EMOTIONS, "emotion") == listed


def test_split_folders_are_taken_as_they_are(tmp_path):
    save(tmp_path / "Training" / "fear" / "a.png")
    save(tmp_path / "validation" / "fearful" / "b.png")
    save(tmp_path / "PrivateTest" / "fear" / "c.png")
    listed = list_pictures(tmp_path, EMOTIONS, "emotion")
    assert {item.file.name: item.split for item in listed} == {
        "a.png": "train",
        "b.png": "val",
        "c.png": "test",
    }


def test_a_folder_without_classes_says_what_it_should_hold(tmp_path):
    save(tmp_path / "cats" / "a.png")
    with pytest.raises(SourceError, match="angry, disgust"):
        list_pictures(tmp_path, EMOTIONS, "emotion")


def test_a_table_labels_a_flat_folder(tmp_path):
    rows = ["file,gender,emotion,note"]
    for name, gender, emotion in (
        ("a", "f", "Fear"),
        ("b", "m", "3"),
        ("c", "", ""),
        ("d", "1", "joy"),
    ):
        save(tmp_path / f"{name}.png")
        rows.append(f"{name}.png,{gender},{emotion},x")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    emotions = list_pictures(tmp_path, EMOTIONS, "emotion")
    assert [EMOTIONS[item.label] for item in emotions] == ["fear", "happy", "happy"]
    genders = data.load_gender(tmp_path)
    assert [GENDERS[label] for label in genders.labels] == ["female", "male", "female"]
    (tmp_path / "labels.csv").write_text("file,emotion\na.png,bored\n")
    with pytest.raises(SourceError, match=r"a\.png is labelled 'bored'"):
        list_pictures(tmp_path, EMOTIONS, "emotion")
    (tmp_path / "labels.csv").write_text("file,mood\na.png,bored\n")
    with pytest.raises(SourceError, match="needs the columns file and emotion"):
        list_pictures(tmp_path, EMOTIONS, "emotion")
    (tmp_path / "labels.csv").write_text("file,emotion\nnone.png,sad\n")
    with pytest.raises(SourceError, match=r"none\.png: cannot read"):
        data.load_emotion(tmp_path)


def test_a_cut_face_is_what_run_would_cut():
    picture = astronaut()
    landmarks = FaceFinder().landmarks(picture)
    template = data.FAIRFACE_LANDMARKS_PX / 2
    spec = InputSpec((72, 72), "rgb", template, (0.0,) * 3, (1.0,) * 3)
    expected = np.empty(spec.shape, np.float32)
    crop_into(planes_of(picture), landmarks, spec, expected)
    found = cut(picture, landmarks, template, 72).transpose(2, 0, 1)
    assert np.abs(found - expected).mean() < 3  # in grey levels; chroma is halved on one road


def test_a_cut_at_its_own_size_moves_nothing():
    picture = noise(7, (48, 48))
    same = cut(picture, data.FER_LANDMARKS_PX, data.FER_LANDMARKS_PX, 48)
    np.testing.assert_allclose(same.astype(int), picture, atol=1)


def test_a_shrinking_cut_averages_rather_than_skips():
    stripes = np.zeros((400, 400), np.uint8)
    stripes[:, ::2] = 255  # finer than the crop can show
    landmarks = data.FER_LANDMARKS_PX * 8 + 5
    crop = cut(stripes, landmarks.astype(np.float32), data.FER_LANDMARKS_PX, 48)
    assert np.ptp(crop[4:-4, 4:-4].astype(int)) < 20
    assert crop.mean() == pytest.approx(127, abs=5)


def test_emotion_folder_takes_small_pictures_as_framed_and_finds_faces_in_large_ones(tmp_path):
    small = noise(0)
    save(tmp_path / "train" / "angry" / "small.png", small)
    save(tmp_path / "train" / "happy" / "astronaut.png", astronaut())
    save(tmp_path / "train" / "sad" / "no face.png", noise(1, (200, 200, 3)))
    save(tmp_path / "test" / "angry" / "copy.png", small)
    save(tmp_path / "val" / "angry" / "other.png", noise(2))
    faces = data.load_emotion(tmp_path)
    assert len(faces.images) == 4  # the one without a face is left out
    assert faces.images.shape[1:] == (48, 48)
    angry = faces.images[(faces.labels == 0) & (faces.split == "train")]
    assert np.array_equal(angry[0], small)
    learnt = faces.training_rows()
    assert faces.labels[learnt].tolist() == [EMOTIONS.index("happy")]  # a test picture is no lesson
    astronaut_crop = faces.images[learnt[0]]
    assert astronaut_crop.std() > 20


def test_fairface_as_published_is_read_and_its_faces_are_found(tmp_path):
    save(tmp_path / "train" / "1.jpg", astronaut())
    save(tmp_path / "val" / "1.jpg", noise(3, (100, 100, 3)))
    for split, row in (
        ("train", ("train/1.jpg", "30-39", "Female", "White", "True")),
        ("val", ("val/1.jpg", "more than 70", "Male", "Black", "False")),
    ):
        with (tmp_path / f"fairface_label_{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "age", "gender", "race", "service_test"))
            writer.writerow(row)
    faces = data.load_gender(tmp_path)
    assert [GENDERS[label] for label in faces.labels] == ["female", "male"]
    assert faces.age_groups().tolist() == ["30-39", "70+"]
    assert faces.split.tolist() == ["train", "val"]
    assert np.isnan(faces.landmarks_px).all()
    found = faces.found()
    assert np.isfinite(found.landmarks_px[0]).all()
    assert np.isnan(found.landmarks_px[1]).all()


def test_gender_by_folders_has_no_groups(tmp_path):
    save(tmp_path / "men" / "a.png", noise(4, (60, 60, 3)))
    save(tmp_path / "Female" / "b.png", noise(5, (60, 60, 3)))
    faces = data.load_gender(tmp_path)
    assert sorted(GENDERS[label] for label in faces.labels) == ["female", "male"]
    assert not faces.race.any()
    assert set(faces.age_groups()) == {"unknown"}
    assert not faces.adult.any()


def test_an_unknown_gender_names_itself(tmp_path):
    save(tmp_path / "train" / "1.jpg", noise(6, (60, 60, 3)))
    (tmp_path / "fairface_label_train.csv").write_text(
        "file,age,gender,race\ntrain/1.jpg,3-9,other,White\n"
    )
    with pytest.raises(SourceError, match="'other'"):
        data.load_gender(tmp_path)
