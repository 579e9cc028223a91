"""Records say what docs/DATA.md promises, and are always valid JSON."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import sample_faces as made
from hypothesis import given
from hypothesis import strategies as st

from streamface import records
from streamface.frame import EMOTIONS

DATA_MD = Path(__file__).parents[1] / "docs" / "DATA.md"


def test_a_frame_record_has_exactly_the_promised_fields():
    frame = made.frame(made.face(), index=7, pts=14, time_base=Fraction(1, 30))
    record = records.frame_record(frame, "clip.mp4")
    assert list(record) == ["source", "frame", "pts", "time_s", "faces"]
    assert (record["source"], record["frame"], record["pts"]) == ("clip.mp4", 7, 14)
    assert record["time_s"] == 0.466667
    (face,) = record["faces"]
    assert face == {
        "track_id": 1,
        "box": [40.0, 30.0, 100.0, 110.0],
        "landmarks": [[58.0, 62.0], [82.0, 62.0], [70.0, 78.0], [61.0, 94.0], [79.0, 94.0]],
        "score": 0.93,
        "emotion": "happy",
        "emotion_probs": face["emotion_probs"],
        "emotion_smoothed": face["emotion_smoothed"],
        "gender": "female",
        "gender_prob": 0.96,
        "covered_by": "detection",
    }
    assert list(face["emotion_probs"]) == list(EMOTIONS)
    assert face["emotion_smoothed"]["happy"] == 0.87
    assert face["emotion_probs"]["sad"] == 0.87


def test_a_frame_without_faces_has_an_empty_list():
    assert records.frame_record(made.frame(), "a")["faces"] == []


def test_what_is_unknown_is_null():
    face = made.face(track_id=-1, label=None, gender=None)
    (record,) = records.frame_record(made.frame(face), "a")["faces"]
    for name in ("track_id", "emotion", "emotion_probs", "emotion_smoothed", "gender"):
        assert record[name] is None
    (row,) = records.face_rows(made.frame(face), "a")
    cells = dict(zip(records.COLUMNS, row, strict=True))
    assert (
        cells["track_id"] is cells["emotion"] is cells["prob_sad"] is cells["gender_prob"] is None
    )


@given(st.lists(st.floats(width=32), min_size=5, max_size=5))
def test_records_are_valid_json_whatever_the_numbers(values):
    points = np.array(values * 2, np.float32).reshape(5, 2)
    face = made.face(landmarks_px=points, box_px=tuple(values[:4]), score=values[4])
    record = records.frame_record(made.frame(face), "a")
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    assert "-0.0" not in [str(value) for value in record["faces"][0]["box"]]


def test_numpy_numbers_become_plain_ones():
    face = made.face(box_px=tuple(np.float32([1.005, 2, 3, 4])), score=np.float32(0.5))
    json.dumps(records.frame_record(made.frame(face), "a"), allow_nan=False)


def test_rows_hold_the_record_flattened():
    frame = made.frame(made.face(), made.face((1.0, 2.0, 3.0, 4.0), track_id=2), index=3)
    flat = [dict(zip(records.COLUMNS, row, strict=True)) for row in records.face_rows(frame, "a")]
    nested = records.frame_record(frame, "a")["faces"]
    for cells, face in zip(flat, nested, strict=True):
        assert [cells[name] for name in ("x0", "y0", "x1", "y1")] == face["box"]
        assert [cells["nose_x"], cells["nose_y"]] == face["landmarks"][2]
        assert cells["right_eye_x"] < cells["left_eye_x"]
        for name in EMOTIONS:
            assert cells[f"prob_{name}"] == face["emotion_probs"][name]
            assert cells[f"smoothed_{name}"] == face["emotion_smoothed"][name]
        for name in ("track_id", "score", "covered_by", "emotion", "gender", "gender_prob"):
            assert cells[name] == face[name]


def test_every_cell_has_its_columns_type():
    (row,) = records.face_rows(made.frame(made.face()), "a")
    assert [type(cell) for cell in row] == list(records.COLUMNS.values())


def test_the_header_is_json_whatever_the_options_hold():
    header = records.header(
        source=Path("clips/a.mp4"),
        models={"emotion": "ab12"},
        options={
            "rate": Fraction(30000, 1001),
            "nan": float("nan"),
            "size": (640, 480),
            "on": True,
            "count": np.int64(3),
            "array": np.array([1.5, np.inf]),
            "none": None,
        },
    )
    assert next(iter(header)) == "schema"
    assert header["schema"] == "streamface.frames/1"
    assert json.loads(json.dumps(header, allow_nan=False)) == header
    assert header["source"] == str(Path("clips/a.mp4"))
    assert header["emotions"] == list(EMOTIONS)
    assert header["options"] == {
        "rate": "30000/1001",
        "nan": None,
        "size": [640, 480],
        "on": True,
        "count": 3,
        "array": [1.5, None],
        "none": None,
    }


def test_the_document_names_every_column_and_field():
    text = DATA_MD.read_text(encoding="utf-8")
    (face,) = records.frame_record(made.frame(made.face()), "a")["faces"]
    spelt_out = {name for name in records.COLUMNS if not name.startswith(("prob_", "smoothed_"))}
    for name in {*face, *spelt_out, "prob_angry", "smoothed_neutral", records.SCHEMA}:
        assert f"`{name}`" in text, name
