"""InsightFace's detector on files of the published form."""

import numpy as np
import pytest

from latentsync.faces.backends import open_detector


def test_insightface_finds_what_its_files_say(weights_folder):
    """Files of the published form that see one face at a known place, whatever the image."""
    pytest.importorskip("insightface", reason="the optional extra insightface is not installed")
    from onnx import TensorProto, helper, numpy_helper, save

    def model(path, side, outputs):
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
        nodes, infos = [], []
        for name, value in outputs.items():
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
        path.parent.mkdir(parents=True, exist_ok=True)
        save(helper.make_model(helper.make_graph(nodes, "g", [given], infos), ir_version=9), path)

    outputs = {}
    for part, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (8, 16, 32):
            value = np.zeros(((512 // stride) ** 2 * 2, width), np.float32)
            if stride == 16:
                cell = 2 * (10 * 32 + 12)  # row 10, column 12: at (192, 160)
                value[cell] = 0.9 if part == "score" else 3.0  # 48 px to every side
            outputs[f"{part}{stride}"] = value
    folder = weights_folder / "auxiliary/models/buffalo_l"
    model(folder / "det_10g.onnx", 512, outputs)
    shape = np.random.default_rng(0).uniform(-0.6, 0.6, (106, 2)).astype(np.float32)
    model(folder / "2d106det.onnx", 192, {"fc1": shape.reshape(1, 212)})
    with open_detector("insightface", 2) as opened:
        [found] = opened.detect(np.zeros((1024, 1024, 3), np.uint8))  # shown to the detector at half its size
        opened.reset()
    assert found.landmarks.shape == (106, 2)
    expected = 2 * (np.array([192, 160]) + shape * 96 * 1.5 * 96 / 192)  # 1.5 boxes wide, seen at 192 px
    assert np.abs(found.landmarks - expected).max() < 2
