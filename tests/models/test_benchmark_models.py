"""The benchmark of models: its FLOPs are those of the layers, and a row that fails says so and stops nobody."""

import json
import sys

import pytest
import torch
from torch import nn

from benchmarks import models as bench
from latentsync.models.unet import Attention, FrameConv, PixelConv


def counted_by_hand(net, arguments) -> float:
    """Two for each multiply-add of convolutions, linear layers and the two products of attention, layer by layer."""
    total = 0

    def conv(module, _inputs, output):
        nonlocal total
        total += 2 * module.weight[0].numel() * output.numel()

    def linear(module, inputs, output):
        nonlocal total
        total += 2 * inputs[0].shape[-1] * output.numel()

    def attention(module, inputs, output):
        nonlocal total
        x, context = inputs[0], inputs[1] if len(inputs) > 1 and inputs[1] is not None else inputs[0]
        total += 2 * 2 * x.numel() * context.shape[-2]  # q k^T, then weights times v

    kinds = {FrameConv: conv, nn.Linear: linear, PixelConv: linear}
    for module in net.modules():
        if type(module) in kinds:
            module.register_forward_hook(kinds[type(module)])
        elif isinstance(module, Attention):
            module.register_forward_hook(attention)
    with torch.inference_mode():
        net(*arguments)
    return total / 1e12


@pytest.mark.parametrize("published", [False, True])
def test_the_flops_are_those_of_the_layers(published):
    case = bench.Case("U-Net", published, "forward")
    with torch.device("meta"):
        net, arguments = bench.build(case), bench.inputs(case)
    assert bench.tflop(case) == pytest.approx(counted_by_hand(net, arguments), rel=1e-3)


def test_a_backward_pass_takes_twice_a_forward_and_checkpointing_one_more():
    forward, both, again = (bench.tflop(bench.Case("U-Net", False, call)) for call in bench.CALLS)
    assert both == pytest.approx(3 * forward, rel=0.02)  # less the gradient of the first layer's input
    assert again == pytest.approx(4 * forward, rel=0.05)  # without the middle block, whose layers are kept


def test_a_row_that_fails_is_a_row(monkeypatch, capsys):
    case = bench.Case("U-Net", False, "forward")

    def out_of_memory(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench, "measured", out_of_memory)
    assert bench.child(case, "cpu") == {"failed": "out of memory"}
    row = bench.row_of(case, "nowhere")  # a device that no child process can have
    assert row["failed"] == "crashed" and "crashed" in bench.line(row) and json.dumps(row)
    assert bench.row_of(case, "cpu", limit_s=0.01)["failed"] == "over 0.01 s"


def test_a_crash_is_the_programs_own_failure(monkeypatch, capsys):
    """The other rows are measured first; then the command says so and ends with 1."""
    rows = [(bench.Case("U-Net", False, "forward", dtype), True) for dtype in ("float32", "bfloat16")]
    monkeypatch.setattr(bench, "cases", lambda *_: rows)
    monkeypatch.setattr(bench, "matrix_rate", lambda *_: 1.0)
    monkeypatch.setattr(sys, "argv", ["models.py", "--device", "cpu"])
    fails = {"float32": {"failed": "crashed"}, "bfloat16": {"failed": "out of memory"}}
    monkeypatch.setattr(bench, "row_of", lambda case, *_: vars(case) | fails[case.dtype])
    with pytest.raises(SystemExit, match="1 of 2 rows crashed"):
        bench.main()
    assert capsys.readouterr().out.count("| U-Net, small") == 2


def test_compiled_rows_come_last():
    """They take minutes each: whoever stops early has all the others."""
    compiled = [case.compiled for case, _ in bench.cases("cuda", [])]
    assert compiled == sorted(compiled) and compiled.count(True) == compiled.count(False)


@pytest.mark.needs_cuda
def test_the_peak_on_a_gpu_is_that_of_the_calls(monkeypatch):
    """A network of bfloat16 is made in float32, which would be the peak of a call that needs little."""
    monkeypatch.setattr(bench, "call", lambda *_: None)
    monkeypatch.setattr(bench, "matrix_rate", lambda *_: 1.0)
    case = bench.Case("U-Net", False, "forward")
    weights_mb = 2 * sum(weight.numel() for weight in bench.build(case).parameters()) / 2**20
    assert bench.measured(case, "cuda")["peak_mb"] == pytest.approx(weights_mb, rel=0.1)


def test_every_line_has_every_column():
    for device in ("cpu", "cuda"):
        for case, _ in bench.cases(device, ["float32", "bfloat16"]):
            cells = bench.line(vars(case)).split(" | ")
            widths = [len(cell) for cell in cells]
            assert widths == list(bench.COLUMNS.values())
