"""Hugging Face networks from their configurations, without any download, against dense Hessians."""

from __future__ import annotations

import copy
import json
import sys
import types

import pytest
import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

import sharpbench as sb
from sharpbench.errors import InputError
from sharpbench.invariance import transformations
from sharpbench.subject import Subject
from sharpbench.suite.own import transformed
from tests.cli.command import in_process

try:
    # torchvision's compiled operators lack beside a CPU torch; transformers imports it where it is there.
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:  # they are there
    _declared = None
try:
    import transformers
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertForTokenClassification,
        GPT2Config,
        GPT2ForSequenceClassification,
        GPT2LMHeadModel,
        T5Config,
        T5ForSequenceClassification,
    )
except Exception as error:
    pytest.skip(
        f"transformers can't be imported ({error}): pip install 'sharpbench[test-hf]'",
        allow_module_level=True,
    )

SMALL = {
    "vocab_size": 12,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 4,
    "max_position_embeddings": 6,
    "num_labels": 3,
}


def tokens(n: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n + length)
    return torch.randint(1, 12, (n, length), generator=generator)


def dense(model, batches, weight):
    """The Hessian of the sum of ``weight(batch)`` times the loss that the network returns itself."""
    model = copy.deepcopy(model).double().eval()
    free = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
    with sdpa_kernel(SDPBackend.MATH):
        total = sum(weight(b) * functional_call(model, free, (), dict(b)).loss for b in batches)
        first = torch.autograd.grad(total, list(free.values()), create_graph=True)
        flat = torch.cat([g.reshape(-1) for g in first])
        rows = [
            torch.autograd.grad(g, list(free.values()), retain_graph=True, materialize_grads=True)
            for g in flat
        ]
    return torch.stack([torch.cat([p.reshape(-1) for p in row]) for row in rows])


def check(subject, hessian):
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    found = sb.measure(subject, "hessian_top_eigenvalue", tolerance=1e-6, max_products=600)
    assert found.value == pytest.approx(largest, rel=1e-5)
    trace = sb.measure(subject, "hessian_trace", method="unit_vectors", max_probes=2000)
    assert trace.value == pytest.approx(float(hessian.trace()), rel=1e-7)


def check_exact(subject):
    """The Gauss-Newton trace and the gradients' noise, sample by sample, against the whole Jacobian."""
    model = subject.working_model(torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        outputs = model(subject.inputs)
        each = subject.loss(outputs, subject.targets)
        rows = [torch.autograd.grad(v, parameters, retain_graph=True) for v in outputs.flatten()]
        noise = [torch.autograd.grad(v, parameters, retain_graph=True) for v in each]
    jacobian, noise = (
        torch.stack([torch.cat([p.reshape(-1) for p in row]) for row in found])
        for found in (rows, noise)
    )
    shape = outputs.shape

    def mean(flat):
        return subject.loss(flat.view(shape), subject.targets).mean()

    curvature = torch.autograd.functional.hessian(mean, outputs.detach().flatten())
    found = sb.measure(subject, "gauss_newton_trace")
    assert found.value == pytest.approx(float((jacobian * (curvature @ jacobian)).sum()), rel=1e-9)
    # The norms of a T5 are taken in float32 whatever its weights are.
    assert found.exact == ("computes_in" not in found.details)
    assert found.details["method"] == "exact"
    found = sb.measure(subject, "gradient_noise")
    assert found.value == pytest.approx(
        float((noise - noise.mean(0)).square().sum(1).mean()), rel=1e-9
    )
    assert "why" not in found.details


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, initializer_range=0.3))


def sentences():
    found = []
    for n, length in ((3, 5), (2, 6)):
        mask = torch.ones(n, length, dtype=torch.long)
        mask[0, -2:] = 0
        found.append(
            transformers.BatchEncoding(
                {"input_ids": tokens(n, length), "attention_mask": mask, "labels": torch.arange(n)}
            )
        )
    return found


def test_a_bert_classifies_sentences(bert):
    batches = sentences()
    subject = Subject.from_batches(bert, batches)
    assert "logits" in subject.said[0]
    check(subject, dense(bert, batches, lambda b: len(b["labels"]) / 5))
    check_exact(subject)
    with pytest.raises(sb.MetricFailed, match=r"bert\.embeddings\.word_embeddings"):
        sb.measure(Subject.from_batches(bert, batches[:1]), "curvature_rate")


@pytest.mark.parametrize("where", ["inputs_embeds", "bert.embeddings"])
def test_the_rate_of_a_bert_in_its_embeddings(bert, where):
    subject = Subject.from_batches(bert, sentences()[:1], differentiate=where)
    found = sb.measure(subject, "curvature_rate", samples="all")
    assert found.details["checks"]["coefficient 0"] < 1e-9
    assert "why" not in found.details
    norm = sb.measure(subject, "input_jacobian_norm", output="logits")
    view = subject.at_inputs(torch.float64)
    x, context = view.of(subject.inputs, subject.targets)
    assert x.shape == (3, 5, 4)
    step, i = 1e-5, 0  # the norm of one row by central differences
    columns = []
    for place in range(x[i].numel()):
        e = torch.zeros_like(x)
        e[i].view(-1)[place] = step
        with torch.no_grad():
            columns.append((view(x + e, context)[i] - view(x - e, context)[i]) / (2 * step))
    rows = [
        torch.autograd.grad(view(free := x.clone().requires_grad_(), context)[j].sum(), free)[0]
        for j in range(3)
    ]
    assert torch.stack(columns).sum(1).numpy() == pytest.approx(
        rows[0][0].flatten().numpy(), rel=1e-4, abs=1e-8
    )
    assert norm.value > 0


def test_a_bert_labels_tokens():
    torch.manual_seed(1)
    model = BertForTokenClassification(BertConfig(**SMALL, initializer_range=0.3))
    batches = [{"input_ids": tokens(n, length)} for n, length in ((2, 4), (1, 6))]
    for batch in batches:
        batch["labels"] = batch["input_ids"] % 3
        batch["labels"][:, 0] = -100
    subject = Subject.from_batches(model, batches, normaliser="tokens")
    every = sum(int((b["labels"] != -100).sum()) for b in batches)
    check(subject, dense(model, batches, lambda b: int((b["labels"] != -100).sum()) / every))
    assert -10 < sb.measure(subject, "margin").value < 10


def test_a_gpt_predicts_the_next_token():
    torch.manual_seed(2)
    shape = {"n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 6, "vocab_size": 12}
    model = GPT2LMHeadModel(
        GPT2Config(**shape, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    )
    texts = [{"input_ids": t, "labels": t} for t in tokens(4, 5)]
    loader = DataLoader(texts, batch_size=3)
    subject = Subject.from_batches(model, loader, normaliser="tokens")
    assert any("next token" in one for one in subject.said)
    check_exact(subject)
    batches = list(loader)
    check(subject, dense(model, batches, lambda b: len(b["labels"]) / 4))
    rate = sb.measure(
        Subject.from_batches(model, loader, differentiate="inputs_embeds"),
        "curvature_rate",
        orders=(1, 2),
    )
    assert rate.details["points_kept"] == 4


def test_a_gpt_classifies():
    torch.manual_seed(4)
    shape = {"n_embd": 4, "n_layer": 2, "n_head": 2, "n_positions": 6, "vocab_size": 12}
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2ForSequenceClassification(
        GPT2Config(**shape, **ends, initializer_range=0.3, num_labels=3)
    )
    check_exact(
        Subject.from_batches(model, [{"input_ids": tokens(9, 5), "labels": torch.arange(9) % 3}])
    )


def test_a_t5_looks_its_relative_positions_up_once():
    torch.manual_seed(5)
    shape = {"d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    model = T5ForSequenceClassification(T5Config(vocab_size=12, **shape, **ends, num_labels=3))
    texts = torch.cat([tokens(9, 5).clamp(min=2), torch.ones(9, 1, dtype=torch.long)], 1)
    check_exact(Subject.from_batches(model, [{"input_ids": texts, "labels": torch.arange(9) % 3}]))


@pytest.mark.parametrize(
    "name",
    ["head_permutation", "attention_gl", "residual_permutation", "neuron_permutation", "sign_flip"],
)
def test_a_bert_is_changed_and_gives_the_same_logits(bert, name):
    subject = Subject.from_batches(bert, sentences())
    told = []
    after = transformed(subject, transformations.create(name), seed=1, told=told.append)
    assert after.model is not subject.model
    trace = sb.measure(after, "hessian_trace", parameters_of=["classifier"])
    plain = sb.measure(subject, "hessian_trace", parameters_of=["classifier"])
    # Of the classifier alone: it sees permuted or mirrored features, or the same.
    assert trace.value == pytest.approx(plain.value, rel=1e-8)


@pytest.mark.parametrize("name", ["neuron_permutation", "neuron_splitting"])
def test_the_hidden_units_of_a_gpt_are_found(name):
    torch.manual_seed(0)
    settings = {"n_positions": 8, "n_embd": 4, "n_layer": 2, "n_head": 2, "vocab_size": 12}
    model = GPT2LMHeadModel(GPT2Config(**settings))
    subject = Subject.from_batches(model, [{"input_ids": tokens(3, 5), "labels": tokens(3, 5)}])
    told = []
    after = transformed(subject, transformations.create(name), seed=1, told=told.append).model
    for before, block in zip(model.transformer.h, after.transformer.h, strict=True):
        assert block.mlp.c_fc.weight.shape[0] == 4
        ahead = block.mlp.c_fc.weight[:, :16]
        assert not torch.equal(ahead, before.mlp.c_fc.weight.double()) or ahead.shape[1] < len(
            block.mlp.c_proj.weight
        )
    assert "c_fc" not in told[0]


def adapted(bert, kind):
    """``bert`` with one of PEFT's adapters, none of whose weights is 0."""
    peft = pytest.importorskip(
        "peft", reason="peft is not installed: pip install 'sharpbench[test-hf]'"
    )
    shared = {"task_type": "SEQ_CLS"}
    settings = {
        "lora": lambda: peft.LoraConfig(r=1, target_modules=["query", "value"], **shared),
        "dora": lambda: peft.LoraConfig(r=1, target_modules=["query"], use_dora=True, **shared),
        "ia3": lambda: peft.IA3Config(
            target_modules=["key", "dense"], feedforward_modules=["dense"], **shared
        ),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=1, **shared),
    }[kind]()
    model = peft.get_peft_model(copy.deepcopy(bert), settings)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("kind", ["lora", "ia3", "prompt"])
def test_only_what_an_adapter_trains_is_differentiated(bert, kind):
    model, batches = adapted(bert, kind), [dict(b) for b in sentences()]
    if kind == "prompt":  # which takes a place of the six
        batches = batches[:1]
    samples = sum(len(b["labels"]) for b in batches)
    hessian = dense(model, batches, lambda b: len(b["labels"]) / samples)
    subject = Subject.from_batches(model, batches)
    assert len(hessian) == sum(p.numel() for p in model.parameters() if p.requires_grad) < 50
    check(subject, hessian)
    assert sb.measure(subject, "margin").exact


def test_an_adapter_that_detaches_is_told(bert):
    """DoRA takes the norms of its weights for constants, and so has no second derivative."""
    subject = Subject.from_batches(adapted(bert, "dora"), [dict(sentences()[0])])
    with pytest.raises(sb.MetricFailed, match=r"not the derivative of first derivatives.*a detach"):
        sb.measure(subject, "hessian_trace")


def test_an_adapted_network_at_the_command_line(bert, tmp_path, capsys, monkeypatch):
    model = adapted(bert, "lora")
    nets = types.ModuleType("adapted_nets_of_a_test")
    nets.build, nets.batches = lambda: model, [dict(b) for b in sentences()]
    monkeypatch.setitem(sys.modules, nets.__name__, nets)
    monkeypatch.chdir(tmp_path)
    command = ["measure", "--model", f"{nets.__name__}:build", "--data", f"{nets.__name__}:batches"]
    command += ["--metric", "hessian_trace", "margin", "parameter_norm", "--json"]
    told = in_process(capsys, monkeypatch, *command, "--param", "max_probes=4")
    assert told.code == 0, told.err
    subject = Subject.from_batches(model, nets.batches)
    values = [json.loads(line)["value"] for line in told.out.splitlines()]
    assert values[:2] == [
        sb.measure(subject, "hessian_trace", max_probes=4).value,
        sb.measure(subject, "margin").value,
    ]


def test_a_loss_of_the_networks_own_that_is_another_is_not_replaced_in_silence():
    model = BertForSequenceClassification(BertConfig(**{**SMALL, "num_labels": 1}))
    batches = [{"input_ids": tokens(2, 4), "labels": torch.tensor([0.5, 1.5])}]
    with pytest.raises(InputError, match=r"a loss of its own.*model\(\*\*batch\)\.loss"):
        Subject.from_batches(model, batches)
    own = Subject.from_batches(model, batches, loss=lambda model, b: model(**b).loss)
    torch_mean = Subject.from_batches(model, batches, loss=torch.nn.MSELoss())
    one, two = (
        sb.measure(s, "hessian_top_eigenvalue", tolerance=1e-6).value for s in (own, torch_mean)
    )
    assert one == pytest.approx(two, rel=1e-5)
