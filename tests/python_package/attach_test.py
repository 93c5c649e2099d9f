"""moetap.attach on eager, scripted, exported and compiled models: the same tokens, ids and weights from each."""

from __future__ import annotations

import threading

import moetap
import pytest
import torch
import torch.nn.functional as F
from models import EXPERTS, TOP_K, WIDTH, GatedBlock, LoopBlock, Model, assert_same_dump, dump_of, inputs, model
from torch import nn

EXAMPLE, INPUTS = inputs(4, 5), inputs(3, 9, seed=1)


def record(run, attached_model, *forwards, wrap=lambda model: model, **options):
    """Runs the model on each of `forwards`; its dump, results and counters."""
    with moetap.attach(attached_model, run, dump="topk", **options) as recording:
        recorded = wrap(recording.model)
        results = [recorded(**each) for each in forwards]
        recording.flush()
        counters = recording.counters
    return dump_of(run), results, counters


def expected_dump(the_model, *forwards):
    """What plain forward hooks and the models' own definition say: per layer ids and weights of the tokens."""
    columns = {}
    for each in forwards:
        x = the_model.embedding(each["input_ids"])
        keep = each["attention_mask"].reshape(-1).bool()
        for layer, block in enumerate(the_model.layers):
            rows = x.reshape(-1, WIDTH)
            gate = block.gate.projection if isinstance(block, GatedBlock) else block.gate
            weights, ids = F.softmax(gate(rows), -1).topk(TOP_K, -1)
            weights = weights / weights.sum(-1, keepdim=True)
            columns.setdefault(f"language_model/{layer}.selected", []).append(ids[keep].short())
            columns.setdefault(f"language_model/{layer}.weights", []).append(weights[keep])
            x = block(x)
    return {name: torch.cat(parts) for name, parts in columns.items()}


@pytest.mark.parametrize("blocks", [(GatedBlock, GatedBlock), (LoopBlock, GatedBlock)], ids=["modules", "loop"])
@pytest.mark.parametrize("with_example", [True, False], ids=["example", "first_forward"])
def test_an_eager_model_gives_what_its_definition_says(tmp_path, blocks, with_example):
    the_model = model(*blocks)
    plain = the_model(**INPUTS)
    options = {"example_inputs": EXAMPLE} if with_example else {}
    dump, results, counters = record(tmp_path / "run", the_model, INPUTS, EXAMPLE, **options)
    assert torch.equal(results[0], plain)
    assert counters["forwards"] == 2 and counters["called_hooks"] == 2
    want = expected_dump(the_model, INPUTS, EXAMPLE)
    for name, values in want.items():
        assert torch.equal(dump[name], values), name
    keep = INPUTS["attention_mask"].bool()
    assert dump["language_model/sample"][: keep.sum()].tolist() == keep.nonzero()[:, 0].tolist()
    assert dump["language_model/position"][: keep.sum()].tolist() == keep.nonzero()[:, 1].tolist()
    # Detached: nothing is left behind.
    assert torch.equal(the_model(**INPUTS), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in the_model.modules())
    assert not any("forward" in module.__dict__ for module in the_model.modules())
    assert not dict(the_model.named_buffers())


def exported(the_model):
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=64)
    shapes = {name: {0: batch, 1: length} for name in EXAMPLE}
    return torch.export.export(the_model, (), EXAMPLE, dynamic_shapes=shapes, strict=False)


@pytest.mark.parametrize(
    "as_form",
    [lambda m: torch.jit.trace(m, example_kwarg_inputs=EXAMPLE), exported, lambda m: exported(m).run_decompositions()],
    ids=["scripted", "exported", "decomposed"],
)
def test_other_forms_record_what_the_eager_model_does(tmp_path, as_form):
    the_model = model(GatedBlock, GatedBlock)
    want, plain, _ = record(tmp_path / "eager", the_model, INPUTS, example_inputs=EXAMPLE)
    form = as_form(the_model)
    got, results, counters = record(tmp_path / "form", form, INPUTS)
    assert torch.equal(results[0], plain[0])
    assert counters["called_hooks"] == 2
    assert_same_dump(got, want, tolerance=1e-6)


def test_a_saved_instrumented_program_is_attached_as_it_is(tmp_path):
    the_model = model(GatedBlock, GatedBlock)
    want, _, _ = record(tmp_path / "eager", the_model, INPUTS, example_inputs=EXAMPLE)
    torch.export.save(moetap.instrument_exported(exported(the_model)), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="instrumented already"):
        moetap.instrument_exported(program)
    with moetap.attach(program, tmp_path / "run", dump="topk") as recording:
        recording.model(**INPUTS)
    assert_same_dump(dump_of(tmp_path / "run"), want, tolerance=1e-6)


def test_a_compiled_model_records_in_each_of_its_forms(tmp_path):
    the_model = model(GatedBlock, GatedBlock)
    forwards = [INPUTS, EXAMPLE, INPUTS]
    want, _, _ = record(tmp_path / "eager", the_model, *forwards, example_inputs=EXAMPLE)
    # Compiled afterwards, without code being made; then one that is compiled already.
    got, _, counters = record(
        tmp_path / "compiled",
        the_model,
        *forwards,
        example_inputs=EXAMPLE,
        wrap=lambda m: torch.compile(m, dynamic=True, backend="aot_eager"),
    )
    assert counters["forwards"] == 3 and counters["aborted"] == 0
    assert_same_dump(got, want, tolerance=1e-5)
    got, _, _ = record(tmp_path / "again", torch.compile(the_model, dynamic=True), *forwards, example_inputs=EXAMPLE)
    assert_same_dump(got, want, tolerance=1e-5)


def test_a_package_of_aotinductor_keeps_the_operator(tmp_path):
    the_model = model(GatedBlock)
    want, plain, _ = record(tmp_path / "eager", the_model, INPUTS, example_inputs=EXAMPLE)
    recording = moetap.Recording(tmp_path / "run", {"dump": "topk"})
    program = moetap.exported.instrument_with(exported(the_model), recording._bind)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    with recording:
        result = torch._inductor.aoti_load_package(package)(**INPUTS)
    torch.testing.assert_close(result, plain[0], rtol=0, atol=1e-4)
    assert_same_dump(dump_of(tmp_path / "run"), want, tolerance=1e-5)


def test_threads_share_a_model_and_keep_their_rows(tmp_path):
    the_model = model(GatedBlock, LoopBlock)
    batches = [inputs(2, 4 + thread, seed=thread) for thread in range(4)]
    with moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE, dump="topk") as recording:

        def run(number):
            for turn in range(20):
                recording.label([100 * number + turn * 2, 100 * number + turn * 2 + 1])
                the_model(**batches[number])

        threads = [threading.Thread(target=torch.no_grad()(run), args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    dump = dump_of(tmp_path / "run")
    rows = 0
    for number, batch in enumerate(batches):
        want = expected_dump(the_model, batch)
        tokens = batch["input_ids"][batch["attention_mask"].bool()]
        for turn in range(20):
            of_forward = dump["language_model/sample"] // 2 == 50 * number + turn
            assert dump["language_model/token_id"][of_forward].tolist() == tokens.tolist()
            for name, values in want.items():
                torch.testing.assert_close(dump[name][of_forward], values, rtol=0, atol=1e-6)
            rows += int(of_forward.sum())
    assert rows == len(dump["language_model/sample"])


class Outer(nn.Module):
    """Runs another model, which is attached as well, in the middle of its own forward."""

    def __init__(self, inner):
        super().__init__()
        self.first, self.second = GatedBlock(), GatedBlock()
        self.embedding = nn.Embedding(50, WIDTH)
        self.inner = inner

    def forward(self, input_ids, attention_mask):
        x = self.first(self.embedding(input_ids))
        x = x + self.inner(input_ids, attention_mask)
        return self.second(x)


def test_a_model_that_runs_another_one_keeps_them_apart(tmp_path):
    inner = model(GatedBlock)
    outer = Outer(inner).eval()
    with moetap.attach(outer, tmp_path / "alone", example_inputs=EXAMPLE, dump="topk"):
        outer(**INPUTS)
    outer_alone = dump_of(tmp_path / "alone")
    with (
        moetap.attach(outer, tmp_path / "outer", example_inputs=EXAMPLE, dump="topk"),
        moetap.attach(inner, tmp_path / "inner", example_inputs=EXAMPLE, dump="topk"),
    ):
        outer(**INPUTS)
    assert_same_dump(dump_of(tmp_path / "outer"), outer_alone)
    got = dump_of(tmp_path / "inner")
    for name, values in expected_dump(inner, INPUTS).items():
        assert torch.equal(got[name], values)


def test_a_forward_that_throws_is_counted_and_the_next_is_right(tmp_path):
    the_model = model(GatedBlock, GatedBlock)
    with moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE, dump="topk") as recording:
        with pytest.raises(RuntimeError):
            the_model(INPUTS["input_ids"], torch.ones(7, 7))
        the_model(**INPUTS)
        recording.flush()
        counters = recording.counters
    assert counters["forwards"] == 1 and counters["aborted"] == 1
    got = dump_of(tmp_path / "run")
    for name, values in expected_dump(the_model, INPUTS).items():
        assert torch.equal(got[name], values)


class Stepwise(Model):
    """A forward that can be left in the middle and taken up again."""

    def forward(self, input_ids, attention_mask, pause=None):
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
            if pause is not None:
                pause()
        return x


def test_two_forwards_at_once_on_one_thread_are_not_mixed(tmp_path):
    torch.manual_seed(1)
    the_model = Stepwise(GatedBlock(), GatedBlock()).eval()
    other = inputs(2, 6, seed=9)
    with moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE, dump="topk") as recording:
        inside = []

        def run_another():
            if not inside:
                inside.append(True)
                the_model(**other)

        the_model(**INPUTS, pause=run_another)  # both are under way on this thread
        the_model(**INPUTS)
        recording.flush()
        counters = recording.counters
    assert counters["forwards"] == 1 and counters["aborted"] == 2
    got = dump_of(tmp_path / "run")
    for name, values in expected_dump(the_model, INPUTS).items():
        assert torch.equal(got[name], values)


class SharedBlock(nn.Module):
    """One block that runs three times in a forward."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH)
        self.block = GatedBlock()

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        for _ in range(3):
            x = self.block(x)
        return x


def test_a_module_that_runs_several_times_is_several_hooks(tmp_path):
    torch.manual_seed(1)
    the_model = SharedBlock().eval()
    ids = []
    hook = the_model.block.gate.register_forward_hook(lambda module, args, result: ids.append(result[2]))
    dump, _, _ = record(tmp_path / "run", the_model, INPUTS, INPUTS, example_inputs=EXAMPLE)
    hook.remove()
    keep = INPUTS["attention_mask"].reshape(-1).bool()
    columns = sorted(name for name in dump if name.endswith(".selected"))
    assert len(columns) == 3
    for run, name in enumerate(columns):
        of_runs = [each for each in ids if len(each) == keep.numel()]
        assert torch.equal(dump[name], torch.cat([of_runs[run][keep], of_runs[3 + run][keep]]).short())


def test_what_cannot_be_attached_is_refused_by_name(tmp_path):
    dense = nn.Sequential(nn.Embedding(50, WIDTH), nn.Linear(WIDTH, EXPERTS)).eval()
    with pytest.raises(ValueError, match="no router"):
        moetap.attach(dense, tmp_path / "dense", example_inputs=(EXAMPLE["input_ids"],))
    with pytest.raises(ValueError, match="no tensor"):
        moetap.attach(model(GatedBlock), tmp_path / "nothing", example_inputs={})
    with pytest.raises(ValueError, match="example_inputs"):
        moetap.attach(torch.compile(model(GatedBlock)), tmp_path / "compiled")
    with pytest.raises(ValueError, match="dumps"):
        moetap.attach(model(GatedBlock), tmp_path / "key", example_inputs=EXAMPLE, dumps="topk")
    with pytest.raises(ValueError, match="attention is recorded from ScriptModules"):
        moetap.attach(model(GatedBlock), tmp_path / "attention", example_inputs=EXAMPLE, attention="stats")
    with pytest.raises(ValueError, match="dump_router_input"):
        moetap.attach(
            model(GatedBlock), tmp_path / "input", example_inputs=EXAMPLE, dump="topk", dump_router_input=True
        )
    with pytest.raises(TypeError, match="got int"):
        moetap.attach(3, tmp_path / "number")
    the_model = model(GatedBlock)
    with (
        moetap.attach(the_model, tmp_path / "first", example_inputs=EXAMPLE),
        pytest.raises(ValueError, match="attached already"),
    ):
        moetap.attach(the_model, tmp_path / "second", example_inputs=EXAMPLE)


def test_gradients_flow_through_an_attached_model(tmp_path):
    the_model = model(GatedBlock, LoopBlock)
    with torch.enable_grad():
        the_model(**INPUTS).sum().backward()
        plain = the_model.layers[0].gate.projection.weight.grad.clone()
        the_model.zero_grad()
        with moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE):
            the_model(**INPUTS).sum().backward()
    assert torch.equal(the_model.layers[0].gate.projection.weight.grad, plain)


class WritingBlock(GatedBlock):
    """Writes to ids and weights in place once the experts have had them."""

    def forward(self, x):
        rows = x.reshape(-1, WIDTH)
        weights, ids = F.softmax(self.gate.projection(rows), -1).topk(TOP_K, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        result = torch.einsum("td,tkdf,tk->tf", rows, self.experts[ids], weights)
        weights.mul_(0.5)
        ids.add_(1).remainder_(EXPERTS)
        return x + result.reshape(x.shape)


class TrainedBlock(GatedBlock):
    """Calls one function more in training."""

    def forward(self, x):
        rows = x.reshape(-1, WIDTH)
        weights, ids = F.softmax(self.gate.projection(rows), -1).topk(TOP_K, -1)
        if self.training:
            weights = weights * torch.rand(1)
        weights = weights * 2.5
        return x + torch.einsum("td,tkdf,tk->tf", rows, self.experts[ids], weights).reshape(x.shape)


def test_values_that_are_written_to_later_are_those_that_the_experts_got(tmp_path):
    torch.manual_seed(1)
    the_model = Model(WritingBlock()).eval()
    try:
        dump, _, _ = record(tmp_path / "run", the_model, INPUTS, example_inputs=EXAMPLE)
    except ValueError as error:
        assert "no module of the model holds all of its values" in str(error)
        return
    assert torch.equal(dump["language_model/0.selected"], expected_dump(the_model, INPUTS)["language_model/0.selected"])


def test_a_model_that_runs_other_code_than_in_the_trace_stops_by_name(tmp_path):
    torch.manual_seed(1)
    the_model = Model(TrainedBlock()).eval()
    recording = moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE, dump="topk")
    the_model.train()
    with pytest.warns(UserWarning, match="reports no more"):
        the_model(**INPUTS)
    with pytest.raises(OSError, match="never reported"):
        recording.close()


def test_arguments_that_the_trace_has_not_seen_are_named(tmp_path):
    the_model = model(GatedBlock)
    only_ids = {"input_ids": EXAMPLE["input_ids"]}
    dump, _, _ = record(tmp_path / "run", the_model, INPUTS, example_inputs=only_ids)
    for name, values in expected_dump(the_model, INPUTS).items():
        assert torch.equal(dump[name], values)
    with (
        moetap.attach(the_model, tmp_path / "other", example_inputs=EXAMPLE),
        pytest.warns(UserWarning, match="extra: not among the example inputs"),
        pytest.raises(TypeError),
    ):
        the_model(**INPUTS, extra=torch.ones(1))


def test_hooks_of_others_change_what_is_reported(tmp_path):
    the_model = model(GatedBlock)
    with moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE, dump="topk"):
        hook = the_model.layers[0].gate.register_forward_hook(
            lambda module, args, result: (result[0], result[1].flip(-1), result[2].flip(-1))
        )
        the_model(**INPUTS)
        hook.remove()
    expected = expected_dump(the_model, INPUTS)
    dump = dump_of(tmp_path / "run")
    for name in ("selected", "weights"):
        assert torch.equal(dump[f"language_model/0.{name}"], expected[f"language_model/0.{name}"].flip(-1))


def test_attaching_leaves_counters_and_random_numbers_as_they_were(tmp_path):
    the_model = model(GatedBlock)
    the_model.register_buffer("calls", torch.zeros(1))
    the_model.layers[0].register_forward_hook(lambda module, args, result: the_model.calls.add_(1) and None)
    before = torch.random.get_rng_state()
    with moetap.attach(the_model, tmp_path / "run", example_inputs=EXAMPLE):
        assert the_model.calls.item() == 0 and torch.equal(torch.random.get_rng_state(), before)
        the_model(**INPUTS)
