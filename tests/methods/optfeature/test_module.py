"""Search, freezing, retraining and export of whole runs on a small embedded log."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything

from datasets.ctr.synthetic_logs import SyntheticLogs
from methods.optfeature.deepfm import DeepFM
from methods.optfeature.export import PrunedIPNN, _Gated, random_ids
from methods.optfeature.factorization_machines import FM
from methods.optfeature.module import CTRModule
from methods.optfeature.network import CTRNetwork
from methods.optfeature.pnn import IPNN
from methods.optfeature.selection.autofis import AutoFIS
from methods.optfeature.selection.controls import RandomPairs
from methods.optfeature.selection.optfeature import FieldSelection, HybridSelection, ValueSelection
from methods.optfeature.selection.optfs import OptFS
from methods.optfeature.selection.optinter import OptInter, OptInterNetwork
from methods.optfeature.selection.profit import PROFIT
from tests.methods.resumption import check_killed_run_goes_on

OPTFEATURE = {"dim": 4, "rank": 8, "lr": 0.01, "bias_init": "zeros"}
RUN = (
    *("logger=csv", "dataset.rows=2000", "dataset.batch_size=128", "model.hidden=[8]", "model.embedding_dim=4"),
    *("method.lr=0.005", "method.selection.dim=4", "method.selection.rank=8", "method.selection.bias_init=zeros"),
    *("method.selection.lr=0.01", "method.search_epochs=3", "method.patience=5", "schedule.max_epochs=6"),
)


def fit(tmp_path, selection, network=IPNN, epochs: int = 4, rows: int = 2000, limits: dict | None = None, **options):
    """Train on a small log; returns the module, its network before the training, the data, and the trainer.

    `limits` are arguments of the trainer that end the training or leave out validations.
    """
    seed_everything(0, verbose=False)
    data = SyntheticLogs(rows=rows, cardinalities=(8, 6, 5, 4), field_pairs=2, value_pairs=1, batch_size=128)
    data.setup()
    arguments = {} if network is FM else {"hidden": (8,)}
    net = network(**data.dims, embedding_dim=4, **arguments)
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    settings = {"lr": 0.005, "patience": 9, "search_epochs": 2} | options
    module = CTRModule(net, selection=selection, **settings)
    module.prepare(data)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        **(limits or {}),
    )
    trainer.fit(module, data)
    return module, before, data, trainer


class Watch(CTRModule):
    """Keeps the weights of selection and network at the moment of freezing."""

    def _freeze(self) -> None:
        super()._freeze()
        self.frozen_selection = {n: w.clone() for n, w in self.selection.state_dict().items()}
        self.restarted_network = {n: w.clone() for n, w in self.network.state_dict().items()}
        self.optimizer_states = [len(optimizer.state) for optimizer in self.optimizers()]


class ClosedValues(ValueSelection):
    """Begins with negative scores for all pairs of values."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.factors.core.data.fill_(-1)
        self.factors.linear.bias.data.fill_(10)


@pytest.mark.parametrize("cls", [FieldSelection, ValueSelection, HybridSelection])
def test_retraining_starts_from_the_first_weights_and_leaves_the_selection_alone(tmp_path, monkeypatch, cls):
    monkeypatch.setitem(globals(), "CTRModule", Watch)
    module, before, _, trainer = fit(tmp_path, partial(cls, **OPTFEATURE))
    assert module.phase == "retrain"
    assert module.finished
    assert trainer.current_epoch == 4
    assert "val/auc" in trainer.callback_metrics
    assert "val/search_auc" not in trainer.callback_metrics
    assert all(torch.equal(module.restarted_network[name], weight) for name, weight in before.items())
    assert module.optimizer_states == [0, 0]
    after = module.selection.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in module.frozen_selection.items())
    assert not torch.equal(module.network.embedding.weight, before["embedding.weight"])


def test_moments_and_weights_of_the_search_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "CTRModule", Watch)
    options = {"init_mode": "best", "reuse_optimizer_state": True}
    module, before, _, _ = fit(tmp_path, partial(FieldSelection, **OPTFEATURE), **options)
    assert min(module.optimizer_states) > 0
    assert not torch.equal(module.restarted_network["embedding.weight"], before["embedding.weight"])


def test_backward_runs_without_autocast(tmp_path):
    data = SyntheticLogs(rows=300, cardinalities=(8, 6, 5, 4), field_pairs=2, value_pairs=1, batch_size=128)
    data.setup()
    module = CTRModule(IPNN(**data.dims, embedding_dim=4, hidden=(8,)), selection=HybridSelection, search_epochs=1)
    module.prepare(data)
    seen = []
    for parameter in (module.network.mlp[0].weight, module.selection.factors.core):
        parameter.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_epochs=2, precision="bf16-mixed", default_root_dir=tmp_path, **options).fit(module, data)
    assert seen
    assert not any(seen)


def test_early_stop_keeps_the_best_epoch(tmp_path):
    module, _, data, trainer = fit(tmp_path, None, epochs=30, lr=0.05, patience=0)
    assert trainer.current_epoch < 30
    areas = [row["val/auc"] for row in module.curve]
    assert areas[-1] <= areas[-2] == max(areas)
    trainer.validate(module, data, verbose=False)
    assert module.curve[-1]["val/auc"] == max(areas)


def test_a_training_that_its_steps_end_has_the_weights_of_its_best_epoch(tmp_path):
    steps = 13 * 6  # 1,600 training rows are 13 batches; at this rate the validation soon gets worse
    module, _, data, trainer = fit(tmp_path, None, epochs=30, lr=0.3, patience=30, limits={"max_steps": steps})
    areas = [row["val/auc"] for row in module.curve]
    assert len(areas) == 6
    assert areas[-1] < max(areas)
    assert module.finished
    trainer.validate(module, data, verbose=False)
    assert module.curve[-1]["val/auc"] == max(areas)


@pytest.mark.parametrize("limits", [{"max_steps": 13}, {"max_steps": 3}, {"max_time": {"seconds": 0.01}}])
def test_a_training_that_ends_in_the_search_is_an_error(tmp_path, limits):
    with pytest.raises(ValueError, match="no predictor was retrained"):
        fit(tmp_path, partial(FieldSelection, **OPTFEATURE), limits=limits)


def test_epochs_without_validation_neither_count_as_gain_nor_as_loss(tmp_path):
    module, _, _, trainer = fit(tmp_path, None, epochs=6, patience=0, limits={"check_val_every_n_epoch": 3})
    assert trainer.current_epoch == 6  # the same metric twice would have ended it in the fourth
    assert len(module.curve) == 2
    with pytest.raises(ValueError, match="no epoch was validated"):
        fit(tmp_path, None, epochs=2, limits={"check_val_every_n_epoch": 3})


@pytest.mark.parametrize(
    ("selection", "network", "epochs"),
    [
        (partial(AutoFIS, lr=0.5, c=0.01), partial(DeepFM, linear=True, pair_norm=True), 4),
        (partial(PROFIT, k=2, lr=0.01), FM, 4),
        (partial(OptFS, penalty_weight=1e-4, temperature=50.0, lr=0.05), IPNN, 4),
        (partial(OptInter, lr=0.05), partial(OptInterNetwork, cross_values=500), 4),
        (partial(RandomPairs, kept_ratio=0.5), IPNN, 2),
    ],
)
def test_every_method_goes_through_search_and_retraining(tmp_path, selection, network, epochs):
    mode = "rewind" if selection.func is OptFS else "init"
    module, _, data, trainer = fit(tmp_path, selection, network, epochs, init_mode=mode)
    assert module.finished
    assert module.selection.is_frozen
    (metrics,) = trainer.test(module, data, verbose=False)
    assert 0 < metrics["test/kept_ratio"] <= 1
    assert metrics["test/auc"] > 0.5
    if selection.func is PROFIT:
        assert metrics["test/kept_ratio"] == pytest.approx(2 / 6)
    assert (tmp_path / "selection.pt").exists() == selection.func.searched


def test_profit_steps_its_factors_on_validation_batches_only(tmp_path):
    """Without training of the predictor, the factors follow the gradient of the validation loss."""
    seed_everything(0, verbose=False)
    data = SyntheticLogs(rows=500, cardinalities=(8, 6, 5, 4), field_pairs=2, value_pairs=1, batch_size=500)
    data.setup()
    module = CTRModule(FM(**data.dims, embedding_dim=4), lr=1e-12, search_epochs=1, selection=partial(PROFIT, k=2))
    module.prepare(data)
    expected = torch.cat([module.selection.first.detach(), module.selection.second.detach()])
    batch = next(iter(data.val_dataloader()))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(module(batch.ids), batch.labels)
    gradients = torch.cat(torch.autograd.grad(loss, [module.selection.first, module.selection.second]))
    expected -= 3e-4 * torch.sign(gradients + 1e-3 * expected)  # the first step of Adam
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=1, **options)
    seen = []
    module.on_train_batch_end = lambda *_: seen.append(
        [module.selection.first.clone(), module.selection.second.clone()]
    )
    trainer.fit(module, data)
    torch.testing.assert_close(torch.cat(seen[0]).detach(), expected, rtol=0, atol=1e-6)


def test_a_selection_of_another_run_takes_the_place_of_the_search(tmp_path):
    first, *_ = fit(tmp_path / "a", partial(HybridSelection, **OPTFEATURE))
    path = str(tmp_path / "a" / "selection.pt")
    second, _, _, trainer = fit(tmp_path / "b", partial(HybridSelection, path=path, **OPTFEATURE), epochs=2)
    assert trainer.current_epoch == 2
    for name, weight in first.selection.state_dict().items():
        assert torch.equal(second.selection.state_dict()[name], weight)
    assert [list(row) for row in second.curve] == [["val/auc", "val/logloss", "val/kept_ratio", "val/value_level"]] * 2


def test_all_gates_closed_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="closed all pairs"):
        fit(tmp_path, partial(AutoFIS, lr=1.0, c=5.0), partial(DeepFM, pair_norm=True))
    with pytest.raises(ValueError, match="closed all pairs"):
        fit(tmp_path, partial(ClosedValues, **(OPTFEATURE | {"lr": 1e-6})), epochs=2, search_epochs=1, rows=500)


def test_hard_gates_that_are_all_closed_are_one_message_though_soft_ones_were_open(tmp_path):
    """Scores of values are positive, those of fields negative and smaller; no pair has moved to value level."""

    class Mixed(HybridSelection):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            self.alpha.data.fill_(-0.1)

        def scores(self, ids):
            by_value, by_field = torch.full((len(ids), self.pairs), 2.0), torch.full((len(ids), self.pairs), -1.0)
            share = (self.alpha > 0).float() if self.is_frozen else self.alpha.sigmoid()
            return share * by_value + (1 - share) * by_field + 0 * super().scores(ids)

    options = OPTFEATURE | {"lr": 1e-6, "alpha_lr": 1e-6}
    with pytest.raises(ValueError, match="closed all pairs"):
        fit(tmp_path, partial(Mixed, **options), epochs=2, search_epochs=1, rows=500)


@pytest.mark.parametrize("selection", [FieldSelection, partial(PROFIT, k=2), OptFS])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_search_that_leaves_no_epoch_for_the_retraining_is_refused(tmp_path, selection, epochs):
    with pytest.raises(ValueError, match=f"schedule.max_epochs={epochs} counts .* method.search_epochs=2"):
        fit(tmp_path, selection, epochs=epochs, search_epochs=2, rows=500)
    assert not (tmp_path / "selection.pt").exists()


def test_a_validation_part_of_one_label_is_one_message(tmp_path):
    data = SyntheticLogs(rows=300, cardinalities=(8, 6, 5, 4), field_pairs=2, value_pairs=1, batch_size=128)
    data.setup()
    data.shards["val"][0].labels.zero_()
    module = CTRModule(IPNN(**data.dims, embedding_dim=4, hidden=(8,)))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    with pytest.raises(ValueError, match="one label only"):
        Trainer(max_epochs=1, default_root_dir=tmp_path, **options).fit(module, data)


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    module, _, _, trainer = fit(tmp_path, None, epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.vocabulary = "other"
    with pytest.raises(ValueError, match="ids mean other values"):
        module.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "selection",
    [
        partial(FieldSelection, **OPTFEATURE),
        partial(ValueSelection, **OPTFEATURE),
        partial(HybridSelection, **OPTFEATURE),
        partial(RandomPairs, kept_ratio=0.5),
        AutoFIS,
    ],
)
def test_pruned_network_has_the_same_logits(selection):
    torch.manual_seed(0)
    network = IPNN((9, 7, 6, 5), embedding_dim=4, hidden=(8, 6)).eval()
    chosen = selection(field_sizes=network.field_sizes)
    for parameter in chosen.parameters():
        torch.nn.init.normal_(parameter)
    if isinstance(chosen, AutoFIS):
        chosen.gate.data[:3] = 0
    chosen.prepare(None)
    chosen.freeze()
    pruned, full = PrunedIPNN(network, chosen).eval(), _Gated(network, chosen).eval()
    ids = random_ids(network, 50)
    with torch.no_grad():
        torch.testing.assert_close(pruned(ids), full(ids))
        traced = torch.jit.trace(pruned, ids)
        torch.testing.assert_close(traced(random_ids(network, 7)), full(random_ids(network, 7)))
    level = chosen.field_level()
    if level is not None:
        assert len(pruned.first) == int((level != 0).sum())
        assert pruned.mlp[0].in_features == 16 + len(pruned.first)


def test_export_refuses_what_it_cannot_prune():
    selection = FieldSelection((3, 3))
    with pytest.raises(ValueError, match="model=ipnn"):
        PrunedIPNN(DeepFM((3, 3), 4, (8,)), selection)
    with pytest.raises(ValueError, match="selections of pairs"):
        PrunedIPNN(IPNN((3, 3), 4, (8,)), OptFS((3, 3)))


@pytest.mark.parametrize(
    ("network", "selection", "message"),
    [
        (DeepFM((3, 3), 4, (8,)), FieldSelection, "model=ipnn"),
        (IPNN((3, 3), 4, (8,), pair_norm=True), AutoFIS, "without pair_norm"),
        (IPNN((3, 3), 4, (8,), linear=True), FieldSelection, "linear term"),
        (IPNN((3, 3), 4, (8,)), OptFS, "selections of pairs"),
        (IPNN((3, 3), 4, (8,)), None, "needs a selection"),
    ],
)
def test_export_is_refused_before_the_training(network, selection, message):
    with pytest.raises(ValueError, match=message):
        CTRModule(network, selection=selection, export=True)


@pytest.mark.parametrize("network", [FM, partial(OptInterNetwork, cross_values=500)])
def test_predictors_of_tables_alone_train_with_sparse_gradients(tmp_path, network):
    options = {"hidden": (8,)} if isinstance(network, partial) else {}
    data = SyntheticLogs(rows=500, cardinalities=(8, 6, 5, 4), field_pairs=2, value_pairs=1, batch_size=128)
    data.setup()
    net = network(**data.dims, embedding_dim=4, sparse=True, **options)
    before = net.embedding.weight.clone()
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    module = CTRModule(net, selection=OptInter if options else None, lr=0.01, search_epochs=1)
    module.prepare(data)
    Trainer(max_epochs=2, default_root_dir=tmp_path, **settings).fit(module, data)
    assert not torch.equal(net.embedding.weight, before)


@pytest.mark.parametrize("option", [{"gradient_clip": 5.0}, {"embedding_weight_decay": 0.1}])
def test_sparse_tables_refuse_what_they_cannot_do(option):
    with pytest.raises(ValueError, match=f"method.{next(iter(option))}=null"):
        CTRModule(IPNN((3, 3), 4, (4,), sparse=True), **option)


def test_sparse_tables_train(tmp_path):
    module, before, _, _ = fit(tmp_path, None, partial(IPNN, sparse=True), epochs=1)
    assert not torch.equal(module.network.embedding.weight, before["embedding.weight"])
    unseen = module.network.offsets[1] - 1  # no row has the id that stands for unseen values
    assert torch.equal(module.network.embedding.weight[unseen], before["embedding.weight"][unseen])


def test_embedding_decay_and_plateau(tmp_path):
    module, *_ = fit(tmp_path, None, epochs=6, lr=0.05, embedding_weight_decay=0.5, plateau_factor=0.1)
    rest, tables = module.optimizers().param_groups
    assert (rest["weight_decay"], tables["weight_decay"]) == (1e-5, 0.5)
    areas = [row["val/auc"] for row in module.curve]
    without_gain = sum(area <= max(areas[:i]) for i, area in enumerate(areas) if i)
    assert rest["lr"] == pytest.approx(0.05 * 0.1**without_gain)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lr": 0.0}, "method.lr"),
        ({"stop_on": "acc"}, "method.stop_on"),
        ({"init_mode": "last"}, "method.init_mode"),
        ({"patience": -1}, "method.patience"),
        ({"weight_decay": -1.0}, "method.weight_decay"),
        ({"embedding_weight_decay": -1.0}, "method.embedding_weight_decay"),
        ({"init_mode": "rewind", "selection": FieldSelection}, "names no epoch"),
        (
            {"init_mode": "rewind", "selection": OptFS, "search_epochs": 1},
            "rewind_epoch=1 is no epoch of the search, which are 0 to 0",
        ),
    ],
)
def test_bad_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        CTRModule(IPNN((3, 3), 4, (4,)), **option)


def test_a_network_is_abstract():
    with pytest.raises(TypeError, match="logits"):
        CTRNetwork((3, 3), 4)(torch.zeros(1, 2, dtype=torch.long))


def test_whole_run_from_the_command_line(call, tmp_path):
    code, printed = call("method=optfeature", *RUN, "method.export=true", f"paths.outputs={tmp_path}")
    assert code == 0, printed
    for name in ("test/auc", "test/logloss", "test/kept_ratio", "test/pair_recall", "time/search", "time/retrain"):
        assert name in printed
    (folder,) = tmp_path.glob("optfeature/*/*")
    for file in ("selection.pt", "pruned.pt", "figures/alpha.png", "figures/kept_pairs.png", "figures/calibration.png"):
        assert (folder / file).exists()


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 4])
def test_a_run_killed_in_either_stage_goes_on(call, spawn, tmp_path, epochs):
    check_killed_run_goes_on(call, spawn, tmp_path, ["method=optfeature", *RUN, "dataset.rows=20000"], epochs)


def test_wrong_arguments_are_told_on_the_command_line(call, tmp_path):
    code, printed = call("method=optfeature", "model=dcn", "logger=csv", f"paths.outputs={tmp_path}")
    assert code == 2
    assert "has none that can be gated" in printed
    assert "Traceback" not in printed
