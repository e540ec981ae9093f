"""Foreign key names: the only place where published layouts are mapped to those of this project.

Each adapter maps a state dict to a state dict and passes on unknown keys, so that strict loading (files.py) reports
them. `recognise` says what network a state dict belongs to and which option or key loads it; `recognise_own` says it of
a file of this project, from its metadata.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

State = dict[str, Tensor]

_WHISPER_LAYER = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


def whisper_encoder_state(state: Mapping[str, Tensor]) -> State:
    """Whisper by OpenAI or Hugging Face -> WhisperEncoder of transformers, without the decoder."""
    if any(key.startswith("model.encoder.") for key in state):
        return {
            key.removeprefix("model.encoder."): value
            for key, value in state.items()
            if key.startswith("model.encoder.")
        }
    result = {}
    for key, value in state.items():
        if not key.startswith("encoder."):
            continue
        name = key.removeprefix("encoder.")
        if name == "positional_embedding":
            name = "embed_positions.weight"
        elif name.startswith("ln_post."):
            name = name.replace("ln_post", "layer_norm")
        elif match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            name = f"layers.{match[1]}.{_WHISPER_LAYER.get(match[2], match[2])}.{match[3]}"
        result[name] = value
    return result


_VIDEOMAE_LAYER = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}


def videomae_state(state: Mapping[str, Tensor]) -> State:
    """VisionTransformer of VideoMAEv2 -> VideoMAEForVideoClassification of transformers (fused qkv is split)."""
    result = {}
    for key, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
            layer, name = f"videomae.encoder.layer.{match[1]}.", match[2]
            if name == "attn.qkv.weight" and len(value) % 3 == 0:
                for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    result[f"{layer}attention.attention.{part}.weight"] = rows
            elif name in ("attn.q_bias", "attn.v_bias"):
                part = "query" if name == "attn.q_bias" else "value"
                result[f"{layer}attention.attention.{part}.bias"] = value
            else:
                old, new = next((pair for pair in _VIDEOMAE_LAYER.items() if name.startswith(pair[0])), ("", ""))
                result[layer + name.replace(old, new, 1)] = value
        elif key.startswith("patch_embed.proj."):
            result[key.replace("patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection.")] = value
        else:
            result[key.replace("head.", "classifier.")] = value
    return result


_VGG16_SLICES = (4, 9, 16, 23, 30)  # lpips splits the features of VGG16 after five of the ReLUs


def lpips_vgg16_state(state: Mapping[str, Tensor]) -> State:
    """VGG16 of torchvision -> the trunk `net` of lpips.LPIPS(net="vgg")."""
    result = {}
    for key, value in state.items():
        if match := re.fullmatch(r"features\.(\d+)\.(weight|bias)", key):
            number = next((n for n, end in enumerate(_VGG16_SLICES, 1) if int(match[1]) < end), None)
            result[f"slice{number}.{match[1]}.{match[2]}"] = value
    return result


_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def diffusers_vae_state(state: Mapping[str, Tensor]) -> State:
    """AutoencoderKL of diffusers in 2022, as in sd-vae-ft-mse -> its current names; only the attention differs."""
    names = "|".join(_VAE_ATTENTION)
    pattern = re.compile(rf"(.*\.mid_block\.attentions\.\d+\.)({names})(\.(?:weight|bias))")
    return {
        match[1] + _VAE_ATTENTION[match[2]] + match[3] if (match := pattern.fullmatch(key)) else key: value
        for key, value in state.items()
    }


def hyperiqa_state(state: Mapping[str, Tensor]) -> State:
    """The published file of SSL92/hyperIQA -> HyperNet of pyiqa; the values are the same."""
    renamed = {f"fc{n}w_conv": f"fc_w_modules.{n - 1}" for n in range(1, 5)} | {"fc5w_fc": "fc_w_modules.4.2"}
    renamed |= {f"fc{n}b_fc": f"fc_b_modules.{n - 1}.2" for n in range(1, 6)}
    renamed |= {f"res.lda{n}_pool.0": f"lda_modules.{n - 1}.0" for n in range(1, 4)}
    renamed |= {f"res.lda{n}_fc": f"lda_modules.{n - 1}.{3 if n < 4 else 2}" for n in range(1, 5)}
    result = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        if module in renamed:
            result[f"{renamed[module]}.{tensor}"] = value
        else:
            result[key.replace("res.", "base_model.", 1) if key.startswith("res.") else key] = value
    return result


# --- recognising networks -------------------------------------------------------------------------------------------

# A key that only one network has -> the network and what loads it. U-Nets and SyncNets are recognised further below.
_KEYS = {
    "model.diffusion_model.input_blocks.0.0.weight": "Stable Diffusion in its original single file; "
    "train_unet_stage1.init loads unet/diffusion_pytorch_model.safetensors of the diffusers layout",
    "encoder.conv1.weight": "OpenAI's Whisper; extract_features.whisper_weights loads it",
    "model.encoder.conv1.weight": "Hugging Face's Whisper; extract_features.whisper_weights loads it",
    "post_quant_conv.weight": "a VAE of Stable Diffusion; extract_features.vae_weights and --vae load its folder",
    "netcnnlip.0.weight": "syncnet_v2; score_sync.weights loads it with backend: syncnet_v2",
    "fc1w_conv.weight": "hyperIQA; score_quality.backend: hyperiqa loads it",
    "patch_embed.proj.weight": "VideoMAEv2; train_unet_stage2.video_teacher loads it",
    "features.0.weight": "VGG16 of torchvision; LPIPS loads it (train_unet_stage2.teachers: published)",
    "stylegan_decoder.style_mlp.1.weight": "GFPGAN; enhance.method: gfpgan loads it",
    "quantize.embedding.weight": "CodeFormer; enhance.method: codeformer loads it",
    "ecd0.0.0.weight": "GPEN as a pickle; enhance.method: gpen loads the ONNX file",
    "decoder.layers.0.weight": "TAESD; generate --tiny-vae loads its folder from the weights folder",
    "conv1_1.weight": "the S3FD detector of face-alignment; align_faces.backend: face_alignment loads it",
    "vgg.0.weight": "the S3FD detector of syncnet_python; align_faces.backend: face_alignment loads another S3FD",
}


_AUDIO_KEYS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """One sentence on the network that these weights belong to and on what loads them, or None."""
    what = _recognised_unet(state) or _recognised_syncnet(state)
    what = what or next((what for key, what in _KEYS.items() if key in state), None)
    return f"It looks like {what}." if what else None


def recognise_own(metadata: Mapping[str, Any]) -> str | None:
    """One sentence on a network that this project wrote, from the metadata that files.py reads, or None."""
    config, px = metadata["config"], metadata.get("resolution")
    if "visual" in config and "audio" in config:
        judged = ""
        if "threshold" in metadata:
            rate, split = metadata["threshold_accuracy"], metadata["threshold_from"]
            judged = (
                f"; it judges {rate:.0%} of the pairs of {split} correctly at the cosine {metadata['threshold']:.2f}"
            )
        what = f"the SyncNet of this project (train_syncnet) for {config['frames']} frames of {config['resolution']} px"
        return f"It is {what}{judged}; score_sync.weights loads it with backend: stable_syncnet."
    if "latent_channels" in config:
        return f"It is the VAE of this project (train_vae), trained on faces of {px} px; generate --vae loads it."
    if "cross_attention_dim" in config:
        widths = "-".join(map(str, config["block_out_channels"]))
        what = f"the U-Net of this project after stage {metadata.get('stage')} for {metadata.get('frames')} frames"
        beside = f", beside the VAE with the content hash {metadata['vae']}" if "vae" in metadata else ""
        return f"It is {what} of {px} px, widths {widths}; generate --weights loads it{beside}."
    return None


def motion_of(state: Mapping[str, Tensor]) -> str:
    """Which blocks of a U-Net have motion modules: the `motion` of UNetConfig (none, all, decoder)."""
    blocks = {key.split(".")[0] for key in state if ".motion_modules." in key}
    return "all" if "down_blocks" in blocks else "decoder" if blocks else "none"


def unet_shape(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Fields of UNetConfig that follow from the shapes of published weights, or None for another network."""
    first, audio = state.get("conv_in.weight"), state.get(_AUDIO_KEYS)
    if first is None or audio is None or first.dim() != 4 or audio.dim() != 2:
        return None
    widths = [state.get(f"down_blocks.{level}.resnets.0.conv1.bias") for level in range(8)]
    return {
        "in_channels": first.shape[1],
        "block_out_channels": tuple(len(bias) for bias in widths if bias is not None and bias.dim() == 1),
        "cross_attention_dim": audio.shape[1],
        "motion": motion_of(state),
    }


def _recognised_unet(state: Mapping[str, Tensor]) -> str | None:
    shape = unet_shape(state)
    if shape is None:
        return None
    width, inputs = shape["cross_attention_dim"], shape["in_channels"]
    if inputs == 4:
        return f"a U-Net of Stable Diffusion with {width}-wide text; train_unet_stage1.init loads SD 1.5 (768 wide)"
    release = {
        "all": "1.5 (config/latentsync-256.yaml) or 1.6 (config/latentsync-512.yaml) or of stage 2 (motion: all)",
        "decoder": "trained as config/stage2-efficient.yaml (train_unet_stage2.motion: decoder)",
        "none": "1.0 or of stage 1 (no motion modules)",
    }[str(shape["motion"])]
    widths = "-".join(str(width) for width in shape["block_out_channels"])
    return (
        f"a LatentSync U-Net {release} with {inputs} input channels, widths {widths} and {width}-wide audio; "
        "generate --weights and train_unet_stage1.init load it"
    )


def _recognised_syncnet(state: Mapping[str, Tensor]) -> str | None:
    first = state.get("visual_encoder.conv_in.weight")
    if first is None or first.dim() != 4:
        return None
    attention = any(".attn.to_q." in key for key in state)
    by_channels = {48: "16 RGB frames", 64: "16 frames of latents", 75: "25 RGB frames"}
    inputs = by_channels.get(first.shape[1], f"{first.shape[1]} channels")
    return f"a StableSyncNet whose input is {inputs}, {'with' if attention else 'without'} attention (docs/models.md)"
