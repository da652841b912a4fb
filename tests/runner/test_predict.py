"""`python -m runner.predict`: a finished run's model on files, and exported networks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

import runner
from runner.execution.export import compare
from runner.predict import main

PICTURES = (
    "method=famus/ce",
    "dataset=digits32",
    "model=lenet5",
    "logger=csv",
    "schedule.max_epochs=1",
    "dataset.limit_train=300",
    "dataset.limit_test=20",
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_tu(folder: Path, store, chosen: list[int], labels: bool) -> None:
    """Write graphs of a store in the TU format, without node labels."""
    folder.mkdir()
    edges, indicator, first = [], [], 1
    for number, graph in enumerate(chosen, 1):
        start, stop = int(store.ptr[graph]), int(store.ptr[graph + 1])
        for node in range(start, stop):
            neighbours = store.col[store.rowptr[node] : store.rowptr[node + 1]]
            edges += [(node - start + first, int(n) - start + first) for n in neighbours]
            indicator.append(number)
        first += stop - start
    (folder / "MINE_A.txt").write_text("".join(f"{a}, {b}\n" for a, b in edges))
    (folder / "MINE_graph_indicator.txt").write_text("".join(f"{n}\n" for n in indicator))
    if labels:
        (folder / "MINE_graph_labels.txt").write_text("".join(f"{int(store.y[g])}\n" for g in chosen))


@pytest.mark.slow
def test_graphs_of_a_tu_folder(call, tiny, tmp_path, capfd) -> None:
    assert call(*tiny)[0] == 0
    (folder,) = (tmp_path / "graphnorm").glob("*/*")
    run = runner.load(folder)
    store, chosen = run.data().store, [5, 900, 17]  # degrees 1 to 6 occur in the collection, not in all of these
    write_tu(tmp_path / "mine", store, chosen, labels=True)
    main([f"run={folder}", f"input={tmp_path / 'mine'}", f"out={tmp_path / 'out'}"])
    written = rows(Path(capfd.readouterr().out.strip().splitlines()[-1]))
    with torch.no_grad():
        expected = run.module().network(store.select(torch.tensor(chosen))).softmax(1)
    got = torch.tensor([[float(row[f"p({c})"]) for c in (0, 1)] for row in written])
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    assert [int(row["label"]) for row in written] == store.y[chosen].tolist()
    assert [int(row["predicted"]) for row in written] == expected.argmax(1).tolist()
    write_tu(tmp_path / "unlabelled", store, chosen, labels=False)
    main([f"run={folder}", f"input={tmp_path / 'unlabelled'}", f"out={tmp_path / 'out2'}"])
    assert "label" not in rows(tmp_path / "out2/MINE.csv")[0]
    capfd.readouterr()
    main([f"run={folder}", f"input={tmp_path / 'mine'},{tmp_path / 'unlabelled'}", f"out={tmp_path / 'out3'}"])
    names = [Path(line).name for line in capfd.readouterr().out.splitlines() if line.endswith(".csv")]
    assert names == ["mine_MINE.csv", "unlabelled_MINE.csv"]
    for arguments, words in {
        (f"input={tmp_path / 'nothing'}",): "no such file or folder",
        ("export=onnx",): "only networks whose input is one tensor can be exported",
        (f"input={tmp_path / 'mine'}", "tokens=3"): "no option of this predictor",
        (f"input={tmp_path / 'mine'}", "method.nonsense=3"): "unknown key method.nonsense",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main([f"run={folder}", *arguments, f"out={tmp_path / 'out3'}"])
        assert ended.value.code == 2
        assert words in capfd.readouterr().err


@pytest.mark.slow
def test_images_and_their_exported_network(call, tmp_path, capfd) -> None:
    pytest.importorskip("onnxruntime")
    assert call(*PICTURES, f"paths.outputs={tmp_path}")[0] == 0
    (folder,) = (tmp_path / "famus").glob("*/*")
    run = runner.load(folder)
    images = run.data().parts["test"].images[:7]
    (tmp_path / "mine").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"mine/{i}.png")
    main([f"run={folder}", f"input={tmp_path / 'mine'}", f"out={tmp_path / 'out'}"])
    network = run.module().network
    with torch.no_grad():
        expected = network(images.float() / 255).softmax(1)
    written = rows(tmp_path / "out/predictions.csv")
    got = torch.tensor([[float(row[name]) for name in run.data().classes] for row in written])
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    main([f"run={folder}", "export=torchscript", f"out={tmp_path / 'out'}"])
    x = torch.rand(3, *images.shape[1:])
    assert compare(network, torch.jit.load(tmp_path / "out/network.pt"), x) < 1e-5
    # one that computes something else is found
    assert compare(network, lambda batch: network(batch) * 1.01, x) > 1e-3


@pytest.mark.slow
def test_onnx(call, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert call(*PICTURES, f"paths.outputs={tmp_path}")[0] == 0
    (folder,) = (tmp_path / "famus").glob("*/*")
    main([f"run={folder}", "export=onnx", f"out={tmp_path / 'out'}"])
    run = runner.load(folder)
    session = onnxruntime.InferenceSession(str(tmp_path / "out/network.onnx"))
    x = torch.rand(9, *run.data().parts["test"].images.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), run.module().network(x), atol=1e-4, rtol=1e-4
        )


def test_a_name_with_a_comma_is_one_file(tmp_path) -> None:
    from runner.predict import find_inputs

    for name in ("c,d.txt", "e.txt"):
        (tmp_path / name).write_text("")
    given = f"{tmp_path}/c,d.txt,{tmp_path}/e.txt,{tmp_path}/*.txt"
    assert [path.name for path in find_inputs(given)] == ["c,d.txt", "e.txt", "c,d.txt", "e.txt"]


def test_an_option_that_cannot_be_read_is_told_before_the_model_is_made() -> None:
    from runner.errors import UserError
    from runner.predict import predict

    with pytest.raises(UserError, match=r"tokens=\[1 cannot be read"):
        predict(None, str(Path(__file__)), Path("nowhere"), "", ["tokens=[1"])


def test_a_method_of_ones_own_predictor_comes_first() -> None:
    from runner.predict import check_options, predictor_of

    class Module:
        def predict_files(self, paths, out, data, threshold=0.5):
            return []

    class Data:
        def predict_files(self, paths, out, module):
            return []

    module, data = Module(), Data()
    predictor, other = predictor_of(module, data)
    assert predictor == module.predict_files
    assert other is data
    assert check_options(predictor, {"threshold": 0.25}) == {"threshold": 0.25}
    predictor, other = predictor_of(object(), data)
    assert predictor == data.predict_files
