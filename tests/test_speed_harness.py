"""The harness that times sgg_jax against PyTorch: both sides compute the same, and every table runs."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is what is compared with")

from benchmarks import harness, paper_scale, precision, speed  # noqa: E402
from benchmarks.equality import LIMITS, answers, check, differences  # noqa: E402
from benchmarks.ours import TINY, Ours, called  # noqa: E402
from benchmarks.peers import published  # noqa: E402
from benchmarks.peers.calls import Peer  # noqa: E402
from benchmarks.peers.guidance import Likelihood  # noqa: E402
from benchmarks.peers.networks import load  # noqa: E402
from benchmarks.work import CALLS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of PyTorch itself, on loading


original = Likelihood.forward


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
    """torch.compile compiles nothing, which takes minutes: (c) runs its own code, eagerly."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(harness, "FILL", 0.0)


@pytest.fixture(scope="module")
def ours():
    return Ours(TINY)


@pytest.fixture(scope="module")
def wanted(ours):
    return answers(ours)


@pytest.mark.parametrize("kind", ["a", "b", "c"])
def test_pytorch_computes_the_same(ours, wanted, kind):
    """Forward passes, gradients, training steps and a whole translation, each but for rounding."""
    found = check(wanted, Peer(ours.work(), kind))
    assert found.keys() >= LIMITS.keys()
    assert max(found.values()) < 1e-4  # at these sizes; LIMITS are those of real ones


def test_both_sides_take_the_gradients_that_are_due(ours, monkeypatch):
    """All but the last step's; equal results do not show who took it."""
    work, taken = ours.work(), []
    assert work.step["variance"][0] > 0  # the rows of one step time a gradient
    monkeypatch.setattr(Likelihood, "forward", lambda self, *given: taken.append(1) or original(self, *given))
    Peer(work, "b").call("whole translation")()
    assert len(taken) == 2  # of three steps: LCG's pairs at once, and GSG
    flops, gradient = ours.flops(), "segmenter input gradient"
    passes = 3 * flops["denoiser forward"] + flops["segmenter forward"]
    assert flops["whole translation"] == passes + flops[gradient] + flops["LCG gradient"]


def test_networks_of_every_layer_compute_the_same():
    """With more resolutions, blocks and attention than the tiny ones have, and every image at a step of its own."""
    ours = Ours({**TINY, "denoiser.unet.widths": (16, 32, 64), "denoiser.unet.attention": (1,)})
    peer = Peer(ours.work(), "b")
    image, step = peer.float_image(), np.array([0, 3, 500, 999])
    found = peer.networks.denoiser(image, torch.tensor(step)).permute(0, 2, 3, 1)
    wanted = jax.jit(called)(ours.denoiser, image.permute(0, 2, 3, 1).numpy(), step)
    assert harness.difference(found, wanted) < 1e-5


def test_what_differs_is_found(ours, wanted):
    """The comparison can fail: another lambda, one weight a little off."""
    work = ours.work()
    work.translate["scale"] *= 1.1
    with pytest.raises(AssertionError, match="b: whole translation differs by"):
        check(wanted, Peer(work, "b"))
    work = ours.work()
    work.segmenter.weights["down.0.0.norm1.bias"] = work.segmenter.weights["down.0.0.norm1.bias"] + 0.01
    found = differences(wanted, Peer(work, "b"))
    for name in ("segmenter forward", "LCG gradient", "whole translation", "segmenter training step: weights"):
        assert found[name] > 1e-4, name
    assert found["denoiser forward"] < 1e-5
    with pytest.raises(AssertionError, match="b: segmenter forward differs by"):
        check(wanted, Peer(work, "b"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("up.0.conv1.kernel"), "there is no weight up.0.conv1.kernel"),
        (lambda w: w.update({"more.bias": np.zeros(3)}), "the network has no weight more.bias"),
        (lambda w: w.update({"norm.bias": np.zeros(3)}), "norm.bias has the shape"),
    ],
)
def test_every_weight_is_used_once(ours, change, sentence):
    peer = Peer(ours.work(), "b")
    weights = dict(peer.work.segmenter.weights)
    network = peer.segmenter_network()
    assert sum(p.numel() for p in network.parameters()) == sum(leaf.size for leaf in weights.values())
    change(weights)
    with pytest.raises(ValueError, match=sentence):
        load(network, weights)


def run(tmp_path, table, *options):
    out = tmp_path / "speed.json"
    speed.main([table, "--tiny", "--repeats", "2", "--out", str(out), *options])
    found = json.loads(out.read_text())
    assert found["commit"] and found["device"] and {"jax", "torch", "numpy", "python"} <= found["versions"].keys()
    assert found["threads"]["torch"] >= 1 and found["tiny"] is True
    return found


def test_the_table_of_parts(tmp_path, capsys):
    found = run(tmp_path, "rows")
    assert [row["name"] for row in found["rows"]] == list(CALLS)
    for row in found["rows"]:
        assert set(row["kinds"]) == {"ours", "a", "b", "c"} and set(row["gain"]) == {"a", "b", "c"}
        for times in row["kinds"].values():
            assert 0 < times["least"] <= times["median"] <= times["most"]
    assert found["rows"][0]["flops_per_second"] > 0 and found["matmul_flops_per_second"]["torch"] > 0
    assert set(found["difference"]) == {"a", "b", "c"}
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(CALLS) and len({line.count("|") for line in printed}) == 1


def test_the_table_of_scaling(tmp_path):
    found = run(tmp_path, "scaling")
    assert [row["value"] for row in found["rows"]] == [4, 8, 1, 3, 1, 2]
    assert all(set(row["kinds"]) == {"ours", "b"} and row["difference"] for row in found["rows"])


def test_the_table_of_first_calls(tmp_path):
    found = run(tmp_path, "compile", "--without-compile")
    assert [row["kind"] for row in found["rows"]] == ["ours", "a", "b"]
    for row in found["rows"]:
        assert row["first"] > 0 and row["peak"] >= row["resident"] > 1e7


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "xyz"}
    seconds = harness.in_turns(calls, 3, rest=0.0)
    assert "".join(order) == 2 * "xyz" + "xyz" + "yzx" + "zxy"
    assert {name: len(found) for name, found in seconds.items()} == dict.fromkeys("xyz", 3)


def test_a_short_call_fills_its_turn(monkeypatch):
    monkeypatch.setattr(harness, "FILL", 0.4)
    now, lasts = [0.0], {"short": 0.1, "long": 2.0}
    called = dict.fromkeys(lasts, 0)

    def call(name):
        now[0] += lasts[name]
        called[name] += 1

    calls = {name: lambda name=name: call(name) for name in lasts}
    seconds = harness.in_turns(calls, 3, rest=0.0, clock=lambda: now[0])
    assert called == {"short": 2 + 3 * 4, "long": 2 + 3}
    assert seconds == {"short": pytest.approx([0.1] * 3), "long": pytest.approx([2.0] * 3)}


def test_spread_and_difference():
    assert harness.spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert harness.spread([0.002, 0.001, 0.003]).text("{:.1f}", 1e3) == "2.0 (1.0 to 3.0)"
    assert harness.difference([1.0, -4.0], [1.0, -5.0]) == pytest.approx(0.2)


def test_published_networks_beside_pytorch(tmp_path, capsys):
    """Outputs and both gradients agree to 1e-4 (else nothing would be timed), and every kind has its time."""
    pytest.importorskip("guided_diffusion", reason="development only: guided-diffusion-sdk")
    pytest.importorskip("transformers", reason="SegFormer's own network")
    out = tmp_path / "paper.json"
    few = ["--batch", "4", "--repeats", "1", "--classes", "3"]
    paper_scale.main(["--small", *few, "--peers", "a", "b", "c", "--out", str(out)])
    training, *guided = json.loads(out.read_text())["rows"]
    assert training["what"] == "train ADM" and set(training["kinds"]) == {"ours"} and training["flops"] > 0
    assert [row["what"].split()[-1] for row in guided] == list(paper_scale.GUIDES)
    for row in guided:
        assert set(row["kinds"]) == set(row["differences"]) | {"ours"} == {"ours", "a", "b", "c"}
        assert set(row["differences"]["a"]) == {"denoiser", "segmenter", "GSG", "LCG"}
        assert row["flops"] > 0 and row["mfu"] > 0
    assert len({line.count("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")}) == 1


@pytest.mark.parametrize("wrong", [1.01, np.nan])
def test_outputs_that_differ_are_not_timed(wrong):
    wanted = {"denoiser": np.ones(3), "LCG": np.ones(3)}
    assert paper_scale.held_against(wanted, wanted, 1e-4) == {"denoiser": 0, "LCG": 0}
    with pytest.raises(AssertionError, match="PyTorch's LCG differs by"):
        paper_scale.held_against(wanted, {**wanted, "LCG": np.array([1.0, 1.0, wrong])}, 1e-4)


def test_a_peers_half_precision_is_of_its_layers_alone():
    """In bfloat16 the image's normalisation stays float32, and outputs are those of float32 but for rounding."""
    options = {"blocks": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "classes": 3, "rates": (6, 12)}
    torch.manual_seed(0)
    whole, half = (published.DeepLabV2(options, dtype) for dtype in (torch.float32, torch.bfloat16))
    half.load_state_dict(whole.state_dict())
    assert torch.equal(half.mean, whole.mean)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert 0 < harness.difference(half(image), whole(image)) < 0.1


def test_published_weights_that_do_not_fit_are_told():
    network = published.Classifier(8, 3, (1, 2))
    weights = {name: np.zeros(leaf.shape, np.float32) for name, leaf in network.state_dict().items()}
    published.fill(network, weights)
    weights["other"] = weights.pop("conv2d_list.0.bias")
    with pytest.raises(RuntimeError, match=r"do not fit: \['conv2d_list.0.bias'\] missing, \['other'\] unknown"):
        published.fill(network, weights)


def test_an_accelerators_arithmetic_is_held_against_the_cpus(tmp_path):
    """Here it is the CPU's own: equal but for bfloat16."""
    out = tmp_path / "precision.json"
    precision.main(["--tiny", "--out", str(out)])
    found = json.loads(out.read_text())["differences"]
    assert set(found) == {"highest", "default", "bfloat16"}
    assert max(found["highest"].values()) == max(found["default"].values()) == 0
    assert 1e-4 < found["bfloat16"]["whole translation"] < 0.1
