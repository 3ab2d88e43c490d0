"""The estimate of memory against what is measured: autograd's own saved tensors, a real optimiser's state."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from family_samples import make
from torch.autograd.graph import saved_tensors_hooks

from diffdpo.config import TrainingConfig
from diffdpo.errors import UserError
from diffdpo.models.memory.architectures import architecture_of, published
from diffdpo.models.memory.footprint import Tuning, footprint, optimizer_bytes, parameters
from diffdpo.models.memory.weights import encoders_gb
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model
from diffdpo.training.optimization import make_optimizer

TINY = {"images": 4, "size": (16, 24), "gpu": False}


def measured(model, images: int, size: tuple[int, int], precision: str) -> int:
    """Bytes of the distinct storages that autograd keeps of one real forward pass, weights apart."""
    prompts = ["a cat"] * images
    h, w = (edge // model.pipeline.vae_scale_factor for edge in size)
    channels = model.pipeline.vae.config.latent_channels
    conditioning = model.add_sizes(model.encode_prompts(prompts), torch.zeros(images, 4, dtype=torch.int64), (h, w))
    x_t, timesteps = torch.zeros(images, channels, h, w), torch.zeros(images, dtype=torch.int64)
    known = {tensor.data_ptr() for tensor in (*model.network.parameters(), *model.network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    half = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with half, saved_tensors_hooks(pack, lambda tensor: tensor):
        model.predict(model.network, x_t, timesteps, conditioning)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture(scope="module", params=["sd15", "sdxl", "sd3", "flux"])
def pipeline(request, tiny_model, tmp_path_factory):
    family = request.param
    return tiny_model if family == "sd15" else make(family, tiny_model, tmp_path_factory.mktemp("tiny") / family)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("lora_rank", "precision"), [(0, "fp32"), (2, "fp32"), (0, "bf16")])
def test_activations_are_those_of_a_real_forward_pass(pipeline, lora_rank, precision, checkpointing):
    """To the byte in float32. In bf16 a CPU's norms keep their statistics in float32, and torch, asked without
    numbers, says bf16: a part in a thousand."""
    model = load_model(str(pipeline), lora_rank=lora_rank, lora_alpha=2.0, channels_last=precision == "bf16")
    if checkpointing:
        model.network.enable_gradient_checkpointing()
    tuning = Tuning(lora_rank=lora_rank, precision=precision, checkpointing=checkpointing, **TINY)
    found = footprint(architecture_of(str(pipeline)), tuning)
    exact = measured(model, 4, (16, 24), precision)
    assert found.activations == (exact if precision == "fp32" else pytest.approx(exact, rel=0.01))


def test_attention_that_keeps_no_products_is_counted_as_such(tiny_model):
    size = (40, 40)
    found = footprint(architecture_of(str(tiny_model)), Tuning(images=2, size=size, gpu=False))
    assert found.activations == measured(load_model(str(tiny_model)), 2, size, "fp32")


def test_a_checkpointed_block_is_made_again(tiny_model):
    """Its activations, and those between the blocks, are fewer than all and not less than what all have in common."""
    architecture = architecture_of(str(tiny_model))
    plain, checkpointed = (footprint(architecture, Tuning(checkpointing=on, **TINY)) for on in (False, True))
    assert plain.passing == 0
    assert 0 < checkpointed.passing < plain.activations
    assert checkpointed.activations + checkpointed.passing < plain.activations


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_weights_gradients_and_optimizer_are_those_of_a_real_step(tiny_model, optimizer, lora_rank):
    model = load_model(str(tiny_model), lora_rank=lora_rank, lora_alpha=2.0)
    trained = trainable(model.network)
    made = make_optimizer(TrainingConfig(1, 1, 1e-4, optimizer), [{"params": trained}])
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    tuning = Tuning(lora_rank=lora_rank, optimizer=optimizer, ema=True, copy=not lora_rank, **TINY)
    found = footprint(architecture_of(str(tiny_model)), tuning)
    held = sum(tensor.nbytes for tensor in model.network.parameters())
    assert found.optimizer == sum(value.nbytes for state in made.state.values() for value in state.values())
    assert found.gradients == found.average == sum(parameter.grad.nbytes for parameter in trained)
    assert found.network + found.adapter == held
    assert found.reference == (0 if lora_rank else held)
    assert found.total == sum(found.parts.values())


def test_eight_bit_moments():
    """By hand: two bytes a value and two scales for 256 of them, but float32 below 4096 values."""
    assert optimizer_bytes("adamw8bit", [torch.Size([64, 80])]) == 2 * 64 * 80 + 2 * 4 * 20
    assert optimizer_bytes("adamw8bit", [torch.Size([10])]) == 80


@pytest.mark.parametrize(
    ("name", "whole", "lora"), [("sd15", 859_520_964, 3_188_736), ("sdxl", 2_567_463_684, 23_224_320)]
)
def test_published_networks_have_the_published_number_of_parameters(name, whole, lora):
    """And of a LoRA of rank 16 on all attention projections: rank times the rows and columns of each."""
    assert parameters(published(name)) == (whole, whole)
    assert parameters(published(name), 16) == (whole, lora)


def test_a_gpu_keeps_half_precision_and_no_attention_products():
    """On a GPU that is not here: frozen weights in half, fewer bytes of activations than in float32."""
    how = {"images": 2, "size": (512, 512), "lora_rank": 16}
    half, whole = (footprint(published("sd15"), Tuning(precision=p, **how)) for p in ("bf16", "fp32"))
    assert half.network == 2 * 859_520_964
    assert whole.network == 4 * 859_520_964
    # 16 attentions over 4096 tokens with 8 heads would keep 2 * 8 * 4096^2 probabilities each: a GB in float32.
    assert half.activations < whole.activations < 5e9


def test_names_and_folders_that_are_not_known(tiny_model, tmp_path):
    assert architecture_of("somebody/some-model") is None
    assert architecture_of("stabilityai/stable-diffusion-xl-base-1.0") == published("sdxl")
    assert encoders_gb("somebody/some-model") is None
    assert encoders_gb(str(tiny_model)) > 0
    with pytest.raises(UserError, match="no such folder"):
        architecture_of("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no diffusers pipeline"):
        architecture_of(str(tmp_path / "empty"))
    (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(UserError, match=r"torn\.safetensors"):
        architecture_of(str(tmp_path / "torn.safetensors"))
