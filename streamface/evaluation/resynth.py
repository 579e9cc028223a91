"""How well faces are re-made: how near, how convincing, whom they still show, and at what cost.

A picture goes the way of a frame: to planes, through the stage that ``run`` uses, and what the
planes show afterwards is what the judges see. Invented faces, which come without a frame, are
enlarged to the size of the others first.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np

from streamface.backends.onnx_runtime import ort
from streamface.card import read_onnx
from streamface.classify import analyze
from streamface.errors import UsageError
from streamface.evaluation.classifiers import mean, record, training_faces
from streamface.evaluation.judges import SAME_PERSON, EmotionJudge, IdentityJudge, crops_of
from streamface.frame import EMOTIONS, Face, Frame, Planes
from streamface.likeness import Likeness
from streamface.model import DEFAULT_MODELS, Model, card_path
from streamface.remake import Remake, StandIns
from streamface.resynth import (
    INVENT_MODEL,
    REENACT_MODEL,
    SAME,
    Imagination,
    Inventor,
    Reenactor,
    asked,
    expression,
)
from streamface.training.data import FAIRFACE_SIDE_PX, load_gender

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from streamface.card import ModelCard
    from streamface.frame import BatchF32, ImageU8, PointsF32

_CHUNK: Final = 16
_HEADER: Final = ("task", "model", "prior", "judge", "sha256", "prior_sha256", "provider")
_OF_PRIOR: Final = (
    "faces", "reidentified", "strangers", "originals", "expression", "generated", "nearest",
    "ms_per_face_synth",
)  # fmt: skip
"""How the names of figures begin that are the inventor's rather than the reenactor's."""
_PEAK: Final = 255.0
_WINDOW_PX: Final = 11
_SIGMA_PX: Final = 1.5
_LEAST_ERROR: Final = 1e-6
"""Of a mean squared error, so that two equal pictures have a finite PSNR, 108 dB."""
_OF_A_VIDEO: Final = 4
"""People whose stand-ins should be told apart."""
_GENERATED: Final = 64
_KNOWN: Final = 4000
_SHOWN: Final = 8
_TIMED: Final = 50
_TIMED_CROWDS: Final = 16
_WARM_UP: Final = 3
_TILES: Final = (2, 4)
"""Rows and columns of faces in the frame that a batch is timed with."""


class Sitter(NamedTuple):
    """A picture with one face in it."""

    planes: Planes
    face: Face
    """With the gender that the shipped net sees, and a track id of its own."""


@dataclass(frozen=True, slots=True)
class Nets:
    """What is judged, and the shipped classifiers that it works with."""

    reenactor: Reenactor
    inventor: Inventor
    emotion: Model
    gender: Model
    likeness: Likeness


class Verdict(NamedTuple):
    """What the judges say of N pictures."""

    labels: NDArray[np.int64]
    """(N,) index into EMOTIONS."""
    whom: BatchF32
    """(N, 128) unit vectors."""

    def likeness(self, other: Verdict) -> NDArray[np.float32]:
        """Return (N,) cosines of each picture to the same one of another verdict."""
        return np.asarray((self.whom * other.whom).sum(1), np.float32)


class Judges(NamedTuple):
    """Both judges."""

    emotion: EmotionJudge
    identity: IdentityJudge

    def see(self, pictures: Sequence[ImageU8], landmarks_px: PointsF32) -> Verdict:
        """Judge (H, W, 3) RGB pictures; landmarks_px: (N, 5, 2)."""
        return Verdict(
            self.emotion.labels(pictures, landmarks_px),
            self.identity.embed_all(pictures, landmarks_px),
        )


class Generated(NamedTuple):
    """Invented faces."""

    pictures: list[ImageU8]
    """As large as the pictures of the data set."""
    asked: NDArray[np.int64]
    """(N,) index into EMOTIONS."""
    verdict: Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this evaluation."""
    parser.add_argument("--data", type=Path, required=True, help="FairFace zip, aligned to 144 px")
    parser.add_argument("--split", default="val", help="as in labels.csv (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="judge so many faces, evenly spread (all)")
    parser.add_argument(
        "--model", default=REENACT_MODEL, help="reenactor: name or card (default: %(default)s)"
    )
    parser.add_argument(
        "--prior", default=INVENT_MODEL, help="inventor: name or card (default: %(default)s)"
    )
    parser.add_argument(
        "--judge", help="emotion model that judges: name or card (engines/judge-emotion.json)"
    )
    parser.add_argument(
        "--generated",
        type=int,
        default=_GENERATED,
        help="faces invented for each emotion (default: %(default)s)",
    )
    parser.add_argument(
        "--record", action="store_true", help="write the figures into the models' cards too"
    )
    parser.add_argument(
        "--nearest",
        type=Path,
        metavar="PNG",
        help="draw invented faces above the training faces most like them",
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="PNG",
        help="draw people: original, plain, the emotions in order, two strangers",
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Judge a reenactor and an inventor; the report is JSON-able.

    Raises SourceError or UsageError for unusable data, ModelError for an unusable model or judge.
    """
    _check(args)
    cv2.setNumThreads(1)  # costs are those of one thread
    with ExitStack() as opened:
        judges = Judges(EmotionJudge.open(args.judge), IdentityJudge())
        opened.callback(judges.emotion.close)
        nets = _open(args, opened)
        sitters = _sitters(args, nets.gender)
        before = _judged(sitters, _as_they_are(sitters), judges)
        made = _invented(nets, judges, args)
        report = {
            "task": "resynth",
            "model": nets.reenactor.card.name,
            "prior": nets.inventor.card.name,
            "judge": judges.emotion.model.card.name,
            "data": args.data.name,
            "split": args.split,
            "sha256": nets.reenactor.card.sha256,
            "prior_sha256": nets.inventor.card.sha256,
            "provider": nets.reenactor.provider,
            "faces": len(sitters),
            **_fidelity(sitters, nets.reenactor, args.model),
            **_reenactment(sitters, before, nets.reenactor, judges),
            **_anonymity(sitters, before, nets, judges, args.seed),
            **_generation(made),
            **_costs(sitters, nets),
        }
        if args.nearest is not None:
            report |= _nearest(args, made, before, judges.identity, nets.inventor.card)
        if args.grid is not None:
            _draw_people(sitters, nets, args)
    if args.record:
        drawn = {name for name in report if name.startswith(_OF_PRIOR)}
        common = {"data": report["data"], "split": report["split"]}
        kept = [name for name in report if name not in drawn and name not in _HEADER]
        record({**common, **{name: report[name] for name in kept}}, args.model)
        record({**common, **{name: report[name] for name in report if name in drawn}}, args.prior)
    return report


def psnr_db(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the peak signal-to-noise ratio of two pictures, 0..255."""
    error = max(float(np.mean((a - b) ** 2, dtype=np.float64)), _LEAST_ERROR)
    return float(10 * np.log10(_PEAK**2 / error))


def ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the structural similarity (Wang et al. 2004) of two (H, W, C) pictures, 0..255.

    Gaussian window of 11 pixels, sigma 1.5, where it fits whole; the mean over channels.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((top / bottom).mean())


def _blurred(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    edge = _WINDOW_PX // 2
    whole = cv2.GaussianBlur(picture, (_WINDOW_PX, _WINDOW_PX), _SIGMA_PX)
    return np.asarray(whole[edge:-edge, edge:-edge], np.float64)


def reenacted(sitter: Sitter, stage: Remake) -> ImageU8:
    """Return what a viewer sees of a face that was given another emotion: (H, W, 3) RGB."""
    frame = _frame(sitter.planes, [sitter.face])
    stage.process([frame])
    return frame.planes.to_rgb()


def anonymised(sitter: Sitter, stage: StandIns, stream: int = 0) -> ImageU8:
    """Return what a viewer sees of a face that somebody else was drawn over: (H, W, 3) RGB."""
    frame = replace(_frame(sitter.planes, [sitter.face]), stream=stream)
    stage.draw(frame, frame.faces)
    return frame.planes.to_rgb()


def _frame(planes: Planes, faces: Sequence[Face], index: int = 0) -> Frame:
    """Return a frame with a copy of the planes; ``index`` counts at 25 frames a second."""
    copy = Planes(planes.y.copy(), planes.u.copy(), planes.v.copy(), planes.colour)
    return Frame(0, index, index, Fraction(1, 25), copy, faces=tuple(faces))


def _check(args: argparse.Namespace) -> None:
    for name in ("limit", "generated"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.seed}")
    for name in ("nearest", "grid"):  # rather now than after minutes of work
        path = getattr(args, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"--{name} {path}: no such folder")


def _open(args: argparse.Namespace, opened: ExitStack) -> Nets:
    inventor = Inventor.open(args.prior)
    nets = Nets(
        Reenactor.open(args.model),
        inventor,
        Model.open(DEFAULT_MODELS["emotion"]),
        Model.open(DEFAULT_MODELS["gender"]),
        Likeness.open(inventor.spec),
    )
    for net in (nets.reenactor, nets.inventor, nets.emotion, nets.gender, nets.likeness):
        opened.callback(net.close)
    return nets


def _sitters(args: argparse.Namespace, gender: Model) -> list[Sitter]:
    """Return the faces that were asked for; those in which none is found are left out."""
    data = load_gender(args.data)
    rows = np.flatnonzero(data.split == args.split)
    if not len(rows):
        known = ", ".join(sorted(set(data.split)))
        raise UsageError(f"{args.data} has no split '{args.split}'; it has {known}")
    # Looked for anew: an aligned set knows only where landmarks lie on average, not how a head is
    # turned; and run cuts faces by what its detector finds.
    chosen = data.only(_spread(rows, args.limit or len(rows))).found(anew=True)
    sitters: list[Sitter] = []
    for picture, points in zip(
        chosen.pictures(range(len(chosen.files))), chosen.landmarks_px, strict=True
    ):
        if np.isfinite(points).all():
            planes = Planes.from_rgb(picture)
            (face,) = analyze(planes, [_face(points)], None, gender)
            sitters.append(Sitter(planes, replace(face, track_id=len(sitters) + 1)))
    if not sitters:
        raise UsageError(f"{args.data}: no face was found in the split '{args.split}'")
    return sitters


def _face(landmarks_px: PointsF32) -> Face:
    (x0, y0), (x1, y1) = landmarks_px.min(0).tolist(), landmarks_px.max(0).tolist()
    return Face((x0, y0, x1, y1), landmarks_px, 1.0)


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _judged(sitters: Sequence[Sitter], pictures: Sequence[ImageU8], judges: Judges) -> Verdict:
    landmarks = np.stack([sitter.face.landmarks_px for sitter in sitters])
    return judges.see(pictures, landmarks)


def _as_they_are(sitters: Sequence[Sitter]) -> list[ImageU8]:
    return [sitter.planes.to_rgb() for sitter in sitters]


# -- how near


def _fidelity(
    sitters: Sequence[Sitter], reenactor: Reenactor, model: str
) -> dict[str, float | None]:
    """Score plain re-making against the crops themselves, and count the codes that it takes."""
    spec = reenactor.spec
    std, shift = (np.array(each, np.float32)[:, None, None] for each in (spec.std, spec.mean))
    reader = CodeReader.open(reenactor.card, card_path(model))
    noise, structure = [], []
    for start in range(0, len(sitters), _CHUNK):
        part = sitters[start : start + _CHUNK]
        landmarks = np.stack([sitter.face.landmarks_px for sitter in part])
        crops = crops_of([sitter.planes for sitter in part], landmarks, spec)
        plain = reenactor.remake(crops, asked(SAME, len(part))).plain
        for crop, again in zip(crops * std + shift, plain, strict=True):
            noise.append(psnr_db(crop, again))
            structure.append(ssim(crop.transpose(1, 2, 0), again.transpose(1, 2, 0)))
        if reader is not None:
            reader.read(crops)
    return {
        "psnr_db": round(float(np.mean(noise)), 3),
        "ssim": round(float(np.mean(structure)), 4),
        "codebook_used": mean(reader.used) if reader is not None else None,
    }


class CodeReader:
    """Which codes a reenactor's encoder picks; the graph is made to tell its scores."""

    def __init__(self, onnx: bytes, scores: str, axis: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._scores, self._axis = scores, axis
        self.used = np.zeros(0, bool)
        """(K,) codes that were picked; empty before anything was read."""

    @classmethod
    def open(cls, card: ModelCard, path: Path) -> CodeReader | None:
        """Open the ONNX of a card again; None where onnx is missing or no code is picked."""
        try:
            import onnx
        except ImportError:  # of the extras train and dev
            return None
        model = onnx.load_from_string(read_onnx(card, path))
        # Nodes stand in the order in which they run: the encoder's codes are picked first.
        pick = next((node for node in model.graph.node if node.op_type == "ArgMax"), None)
        if pick is None:
            return None
        scores = pick.input[0]
        axis = next(each.i for each in pick.attribute if each.name == "axis")
        kind = onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(scores, kind, None))
        return cls(model.SerializeToString(), scores, axis)

    def read(self, crops: BatchF32) -> None:
        """Note the codes of (N, C, S, S) crops."""
        first, *others = self._session.get_inputs()
        feeds = {each.name: np.zeros((len(crops), *each.shape[1:]), np.float32) for each in others}
        (scores,) = self._session.run([self._scores], {first.name: crops, **feeds})
        if not len(self.used):
            self.used = np.zeros(scores.shape[self._axis], bool)
        self.used[np.unique(scores.argmax(self._axis))] = True


# -- how convincing, and whom


def _reenactment(
    sitters: Sequence[Sitter], before: Verdict, reenactor: Reenactor, judges: Judges
) -> dict[str, object]:
    """Ask every face for every emotion. unaltered: how often the judge says it without asking."""
    rows: dict[str, dict[str, float | None]] = {}
    said_as: dict[str, dict[str, int]] = {}
    cosines = []
    skipped = 0
    for number, name in enumerate(EMOTIONS):
        stage = Remake(reenactor, name)
        after = _judged(sitters, [reenacted(each, stage) for each in sitters], judges)
        cosine = after.likeness(before)
        cosines.append(cosine)
        skipped += stage.tally.skipped
        rows[name] = {
            "said": mean(after.labels == number),
            "unaltered": mean(before.labels == number),
            "identity_kept": mean(cosine > SAME_PERSON),
            "cosine": round(float(cosine.mean()), 4),
        }
        counts = np.bincount(after.labels, minlength=len(EMOTIONS))
        said_as[name] = dict(zip(EMOTIONS, map(int, counts), strict=True))
    rates = {name: row["said"] for name, row in rows.items()}
    return {
        "reenact": rates,
        "reenact_mean": round(float(np.mean([rate or 0 for rate in rates.values()])), 4),
        "identity_kept": mean(np.concatenate(cosines) > SAME_PERSON),
        "reenact_skipped": skipped,
        "by_emotion": rows,
        "said_as": said_as,
    }


def _anonymity(
    sitters: Sequence[Sitter], before: Verdict, nets: Nets, judges: Judges, seed: int
) -> dict[str, object]:
    """Draw somebody else over every face, as if every four were of one video.

    reidentified_first: the original most like the anonymised picture, of all, is its own.
    reidentified_own_rank: the share of all other originals more like it than its own, by the
    judge, who had no part in choosing; 0.5 if nothing can be told from it, and near 1 an original
    is found where likeness is least. reidentified_own_rank_by_likeness: the same by the net that
    chose, which anybody may ask.
    strangers_told_apart: of the pairs of one video. originals_told_apart is that of the same pairs
    unaltered: what the judge of identity can do with such pictures at best.
    """
    stage = StandIns(nets.inventor, nets.emotion, nets.likeness, seed=seed)
    pictures = [
        anonymised(each, stage, number // _OF_A_VIDEO) for number, each in enumerate(sitters)
    ]
    after = _judged(sitters, pictures, judges)
    own = after.likeness(before)
    chooser = [_as_chosen(nets, sitters, each) for each in (pictures, _as_they_are(sitters))]
    first = (after.whom @ before.whom.T).argmax(1) == np.arange(len(sitters))
    pairs = _pairs(len(sitters))
    return {
        "reidentified": mean(own > SAME_PERSON),
        "reidentified_first": mean(first),
        "reidentified_cosine": round(float(own.mean()), 4),
        "reidentified_own_rank": _own_rank(after.whom @ before.whom.T),
        "reidentified_own_rank_by_likeness": _own_rank(chooser[0] @ chooser[1].T),
        "strangers_told_apart": _told_apart(after.whom, pairs),
        "originals_told_apart": _told_apart(before.whom, pairs),
        "expression_kept": mean(after.labels == before.labels),
        "anonymise_skipped": stage.tally.skipped,
    }


def _as_chosen(nets: Nets, sitters: Sequence[Sitter], pictures: Sequence[ImageU8]) -> BatchF32:
    """Return (N, W) unit vectors by the net that chooses who stands in."""
    landmarks = np.stack([sitter.face.landmarks_px for sitter in sitters])
    planes = [Planes.from_rgb(picture) for picture in pictures]
    return nets.likeness.look(crops_of(planes, landmarks, nets.likeness.spec)).vectors


def _own_rank(likeness: NDArray[np.float32]) -> float | None:
    """Return the mean share of the others of an (N, N) row that lie above its diagonal."""
    above = likeness > np.diag(likeness)[:, None]
    others = len(likeness) - 1
    return round(float(above.sum(1).mean()) / others, 4) if others else None


def _pairs(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers below ``count`` that share a video, in pairs; none of fewer than two."""
    video = np.arange(count) // _OF_A_VIDEO
    one, other = np.nonzero(np.triu(video[:, None] == video, 1))
    return one, other


def _told_apart(whom: BatchF32, pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> float | None:
    cosines = (whom[pairs[0]] * whom[pairs[1]]).sum(1)
    return mean(cosines < SAME_PERSON)


# -- out of nothing


def _invented(nets: Nets, judges: Judges, args: argparse.Namespace) -> Generated:
    """Invent as many faces of every emotion, half of them women, and have them judged."""
    rng = np.random.default_rng(args.seed)
    count = args.generated
    imagination = Imagination(nets.inventor, nets.reenactor)
    females = np.where(np.arange(count) % 2, -1, 1).astype(np.float32)
    pictures: list[ImageU8] = []
    for name in EMOTIONS:
        expressions = np.tile(expression(name), (count, 1))
        pictures += map(_enlarged, imagination.invent(expressions, females, rng))
    spec = imagination.spec
    scale = FAIRFACE_SIDE_PX / spec.size_px[0]
    landmarks = np.tile(spec.landmarks_px * np.float32(scale), (len(pictures), 1, 1))
    wanted = np.repeat(np.arange(len(EMOTIONS)), count)
    return Generated(pictures, wanted, judges.see(pictures, landmarks))


def _enlarged(made: NDArray[np.float32]) -> ImageU8:
    """Return a (3, S, S) RGB picture, 0..255, at the size of the data set's: (144, 144, 3)."""
    size = (FAIRFACE_SIDE_PX, FAIRFACE_SIDE_PX)
    upright = np.ascontiguousarray(made.transpose(1, 2, 0))
    large = cv2.resize(upright, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(np.rint(large), 0, 255), np.uint8)


def _generation(made: Generated) -> dict[str, object]:
    right = made.verdict.labels == made.asked
    agreement = {name: mean(right[made.asked == i]) for i, name in enumerate(EMOTIONS)}
    cosines = made.verdict.whom @ made.verdict.whom.T
    different = cosines[np.triu_indices(len(cosines), 1)]
    return {
        "generated": len(made.pictures),
        "generated_agreement": agreement,
        "generated_agreement_mean": mean(right),
        "generated_distinct": mean(different < SAME_PERSON),
    }


# -- at what cost


def _costs(sitters: Sequence[Sitter], nets: Nets) -> dict[str, float]:
    """Return the wall time of the whole stages, from planes to planes, in one thread.

    ms_per_face_synth includes the net that reads the expression, as in ``run``.
    """
    remake = Remake(nets.reenactor, EMOTIONS[0])
    stand_ins = StandIns(nets.inventor, nets.emotion, nets.likeness, seed=0)
    # One track: who stands in for somebody is chosen once.
    alone = [(s.planes, [replace(s.face, track_id=1)]) for s in sitters[:_TIMED]]
    crowds = [_crowd(sitter) for sitter in sitters[:_TIMED_CROWDS]]
    crowd_ms = _ms(_frames(crowds, _TIMED_CROWDS), lambda frame: remake.process([frame]))
    return {
        "ms_per_face": _ms(_frames(alone, _TIMED), lambda frame: remake.process([frame])),
        "ms_per_face_batch8": round(crowd_ms / len(crowds[0][1]), 3),
        "ms_per_face_synth": _ms(
            _frames(alone, _TIMED), lambda frame: stand_ins.draw(frame, frame.faces)
        ),
    }


def _frames(scenes: Sequence[tuple[Planes, list[Face]]], count: int) -> Iterator[Frame]:
    for index, (planes, faces) in enumerate(islice(cycle(scenes), _WARM_UP + count)):
        yield _frame(planes, faces, index)


def _crowd(sitter: Sitter) -> tuple[Planes, list[Face]]:
    """Return one picture that shows a face as often as there are tiles."""
    height, width = (size // 2 * 2 for size in sitter.planes.y.shape)
    luma = sitter.planes.y[:height, :width]
    u, v = (p[: height // 2, : width // 2] for p in (sitter.planes.u, sitter.planes.v))
    y, u, v = (np.tile(plane, _TILES) for plane in (luma, u, v))
    shifts = [np.array((width * i, height * j)) for j, i in np.ndindex(_TILES)]
    faces = [
        replace(
            _face((sitter.face.landmarks_px + shift).astype(np.float32)),
            track_id=number,
            gender=sitter.face.gender,
        )
        for number, shift in enumerate(shifts, start=1)
    ]
    return Planes(y, u, v, sitter.planes.colour), faces


def _ms(frames: Iterator[Frame], do: Callable[[Frame], object]) -> float:
    """Return the median time of what is done to a frame, after some to warm up."""
    times_s = []
    for frame in frames:
        began_s = time.perf_counter()
        do(frame)
        times_s.append(time.perf_counter() - began_s)
    return round(1e3 * float(np.median(times_s[_WARM_UP:])), 3)


# -- for people to look at


def _nearest(
    args: argparse.Namespace,
    made: Generated,
    before: Verdict,
    judge: IdentityJudge,
    card: ModelCard,
) -> dict[str, object]:
    """Draw invented faces above the training faces most like them, and tell how like these are.

    nearest_cosine_real is the median over the judged split, of people whom training never saw; an
    inventor that copies lies above it with nearest_cosine_generated.
    """
    faces = list(training_faces(args.data, card.input, _KNOWN))
    if not faces:
        raise UsageError(f"{args.data} has no training faces for --nearest")
    known = [planes.to_rgb() for planes, _ in faces]
    whom = judge.embed_all(known, np.stack([points for _, points in faces]))
    shown = _spread(np.arange(len(made.pictures)), _SHOWN)
    cosines = made.verdict.whom @ whom.T
    best = cosines.argmax(1)
    _write_grid([[made.pictures[i] for i in shown], [known[best[i]] for i in shown]], args.nearest)
    return {
        "nearest_cosine": [round(float(cosines[i, best[i]]), 4) for i in shown],
        "nearest_cosine_generated": round(float(np.median(cosines.max(1))), 4),
        "nearest_cosine_real": round(float(np.median((before.whom @ whom.T).max(1))), 4),
    }


def _draw_people(sitters: Sequence[Sitter], nets: Nets, args: argparse.Namespace) -> None:
    chosen = [sitters[i] for i in _spread(np.arange(len(sitters)), _SHOWN)]
    columns = [_as_they_are(chosen)]
    for name in (SAME, *EMOTIONS):
        stage = Remake(nets.reenactor, name)
        columns.append([reenacted(sitter, stage) for sitter in chosen])
    for seed in (args.seed, args.seed + 1):
        people = StandIns(nets.inventor, nets.emotion, nets.likeness, seed=seed)
        columns.append([anonymised(sitter, people) for sitter in chosen])
    _write_grid(list(zip(*columns, strict=True)), args.grid)


def _write_grid(rows: Sequence[Sequence[ImageU8]], path: Path) -> None:
    """Write a PNG of rows of (H, W, 3) RGB pictures. Raises UsageError."""
    size = (FAIRFACE_SIDE_PX, FAIRFACE_SIDE_PX)
    cells = [[cv2.resize(cell, size, interpolation=cv2.INTER_AREA) for cell in row] for row in rows]
    grid = np.vstack([np.hstack(row) for row in cells])
    _, content = cv2.imencode(".png", cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
    try:
        path.write_bytes(content.tobytes())
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror or exc}") from exc
