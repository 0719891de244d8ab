"""Small models of libraries that are built on torch, from their configurations with random weights, for coverage.py.

A model is built by its library's own constructor and called as its documentation calls it. ``THIRD`` lists, by library,
name → function that returns (model, its inputs for a batch size); nothing is imported or built before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Any]
Built = tuple[nn.Module, Callable[[int], Inputs]]
Builders = dict[str, Callable[[], Built]]


def tensors(name: str, *shape: int) -> Callable[[int], Inputs]:
    """(batch, *shape) of a normal distribution."""
    return lambda n: {name: torch.randn(n, *shape)}


def tokens(length: int = 16, words: int = 100, **more: Any) -> Callable[[int], Inputs]:
    """Word indices, none of them special."""
    return lambda n: {"input_ids": torch.randint(3, words, (n, length)), **more}


def together(*parts: Callable[[int], Inputs]) -> Callable[[int], Inputs]:
    """Several inputs."""
    return lambda n: {key: value for part in parts for key, value in part(n).items()}


# --- monai ------------------------------------------------------------------------------------------------------------


_FIRST = {
    "VQVAE": "images",
    "SwinUNETR": "x_in",
    "UNETR": "x_in",
    "VoxelMorphUNet": "concatenated_pairs",
    "FlexibleUNet": "inputs",
    "EfficientNetBN": "inputs",
}


def _monai(name: str, size: tuple[int, ...], colours: int = 1, **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import monai.networks.nets as nets

        return getattr(nets, name)(**options), tensors(_FIRST.get(name, "x"), colours, *size)

    return build


_UNET = {"in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}
_IO = {"in_channels": 1, "out_channels": 2}
_DENSE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "init_features": 8, "growth_rate": 4}
_KERNELS = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]}
_DIFFUSION = {"channels": (8, 16), "attention_levels": (False, True), "num_res_blocks": 1, "norm_num_groups": 4}
_VIT = {"in_channels": 1, "img_size": (32, 32), "patch_size": (8, 8), "hidden_size": 32, "mlp_dim": 64}
_VIT |= {"num_layers": 2, "num_heads": 4, "spatial_dims": 2}
_SEG = {"spatial_dims": 2, "init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)}


def monai() -> Builders:
    """Networks of MONAI."""

    def diffusion() -> Built:
        from monai.networks.nets import DiffusionModelUNet

        net = DiffusionModelUNet(spatial_dims=2, in_channels=1, out_channels=1, num_head_channels=8, **_DIFFUSION)
        return net, lambda n: {"x": torch.randn(n, 1, 16, 16), "timesteps": torch.randint(0, 1000, (n,))}

    kl = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "latent_channels": 3, **_DIFFUSION}
    return {
        "UNet": _monai("UNet", (32, 32), spatial_dims=2, **_UNET),
        "UNet, 3-d, residual": _monai("UNet", (16, 16, 16), spatial_dims=3, num_res_units=2, **_UNET),
        "BasicUNet": _monai("BasicUNet", (32, 32), spatial_dims=2, features=(8, 8, 16, 16, 32, 8), **_IO),
        "BasicUNetPlusPlus": _monai(
            "BasicUNetPlusPlus", (32, 32), spatial_dims=2, features=(8, 8, 16, 16, 32, 8), **_IO
        ),
        "AttentionUnet": _monai("AttentionUnet", (32, 32), spatial_dims=2, **_UNET),
        "DynUNet": _monai("DynUNet", (16, 16, 16), spatial_dims=3, **_IO, **_KERNELS),
        "DynUNet, deep supervision": _monai(
            "DynUNet", (32, 32), spatial_dims=2, deep_supervision=True, deep_supr_num=1, **_IO, **_KERNELS
        ),
        "SegResNet": _monai("SegResNet", (32, 32), **_SEG),
        "SegResNetVAE": _monai("SegResNetVAE", (32, 32), input_image_size=(32, 32), vae_nz=8, **_SEG),
        "VNet": _monai("VNet", (32, 32, 32), spatial_dims=3, **_IO),
        "UNETR": _monai(
            "UNETR", (32, 32, 32), img_size=(32, 32, 32), feature_size=4, hidden_size=48, mlp_dim=96, num_heads=4, **_IO
        ),
        "SwinUNETR": _monai("SwinUNETR", (64, 64), feature_size=12, spatial_dims=2, **_IO),
        "FlexibleUNet": _monai("FlexibleUNet", (64, 64), backbone="resnet10", spatial_dims=2, pretrained=False, **_IO),
        "HighResNet": _monai("HighResNet", (24, 24), spatial_dims=2, **_IO),
        "AHNet": _monai("AHNet", (128, 128), spatial_dims=2, **_IO),
        "RegUNet": _monai("RegUNet", (32, 32), spatial_dims=2, num_channel_initial=8, depth=2, **_IO),
        "VoxelMorphUNet": _monai(
            "VoxelMorphUNet",
            (32, 32),
            2,
            spatial_dims=2,
            in_channels=2,
            unet_out_channels=8,
            channels=(8, 8, 8, 8),
            final_conv_channels=(8, 8),
        ),
        "MedNeXtS": _monai("MedNeXtS", (32, 32), spatial_dims=2, **_IO),
        "DenseNet": _monai("DenseNet", (48, 48), block_config=(2, 2), **_DENSE),
        "ResNet": _monai(
            "ResNet", (32, 32), 3, block="basic", layers=[1, 1, 1, 1], block_inplanes=[8, 16, 32, 64], spatial_dims=2
        ),
        "SEResNet50": _monai("SEResNet50", (32, 32), spatial_dims=2, in_channels=1, num_classes=3),
        "EfficientNetBN": _monai(
            "EfficientNetBN", (64, 64), model_name="efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1
        ),
        "ViT": _monai("ViT", (32, 32), classification=True, **_VIT),
        "ViTAutoEnc": _monai("ViTAutoEnc", (32, 32), **_VIT | {"patch_size": (4, 4)}),
        "MaskedAutoEncoderViT": _monai(
            "MaskedAutoEncoderViT",
            (32, 32),
            decoder_hidden_size=32,
            decoder_mlp_dim=64,
            decoder_num_layers=1,
            decoder_num_heads=4,
            **_VIT,
        ),
        "AutoEncoder": _monai(
            "AutoEncoder", (32, 32), spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), strides=(2, 2)
        ),
        "VarAutoEncoder": _monai(
            "VarAutoEncoder",
            (32, 32),
            spatial_dims=2,
            in_shape=(1, 32, 32),
            out_channels=1,
            latent_size=8,
            channels=(8, 16),
            strides=(2, 2),
        ),
        "AutoencoderKL": _monai("AutoencoderKL", (32, 32), **kl),
        "VQVAE": _monai(
            "VQVAE",
            (32, 32),
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(8, 16),
            num_res_layers=1,
            num_res_channels=(8, 16),
            downsample_parameters=((2, 4, 1, 1),) * 2,
            upsample_parameters=((2, 4, 1, 1, 0),) * 2,
            num_embeddings=16,
            embedding_dim=8,
        ),
        "DiffusionModelUNet": diffusion,
        "PatchDiscriminator": _monai(
            "PatchDiscriminator", (32, 32), spatial_dims=2, channels=8, in_channels=1, num_layers_d=2
        ),
        "GlobalNet": _monai(
            "GlobalNet", (32, 32), image_size=(32, 32), spatial_dims=2, in_channels=1, num_channel_initial=8, depth=2
        ),
    }


# --- segmentation-models-pytorch --------------------------------------------------------------------------------------


def segmentation_models() -> Builders:
    """Every architecture, over ResNet-18 (DPT: over a small ViT)."""

    def one(name: str) -> Callable[[], Built]:
        def build() -> Built:
            import segmentation_models_pytorch as smp

            if name == "DPT":
                encoder = {"encoder_name": "tu-vit_tiny_patch16_224", "dynamic_img_size": True, "encoder_depth": 4}
                net = smp.DPT(encoder_weights=None, classes=3, **encoder)
                return net, tensors("x", 3, 64, 64)
            size = 128 if name == "PAN" else 64
            return getattr(smp, name)("resnet18", encoder_weights=None, classes=3), tensors("x", 3, size, size)

        return build

    names = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus")
    return {name: one(name) for name in (*names, "UPerNet", "Segformer", "DPT")}


# --- diffusers --------------------------------------------------------------------------------------------------------

_BLOCKS = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}


def diffusers() -> Builders:
    """U-Nets, autoencoders and transformers of diffusers."""

    def one(name: str, inputs: Callable[[int], Inputs], **options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import diffusers

            return getattr(diffusers, name)(**options), inputs

        return build

    def steps(n: int) -> Inputs:
        return {"timestep": torch.randint(0, 1000, (n,))}

    def text(length: int, width: int) -> Callable[[int], Inputs]:
        return tensors("encoder_hidden_states", length, width)

    noisy = together(tensors("sample", 3, 16, 16), steps)
    vae = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, **_BLOCKS}
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "patch_size": 2}
    return {
        "UNet2DModel": one(
            "UNet2DModel",
            noisy,
            sample_size=16,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            **_BLOCKS,
        ),
        "UNet2DConditionModel": one(
            "UNet2DConditionModel",
            together(tensors("sample", 4, 16, 16), steps, text(5, 32)),
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=32,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **_BLOCKS,
        ),
        "UNet3DConditionModel": one(
            "UNet3DConditionModel",
            together(tensors("sample", 4, 3, 16, 16), steps, text(5, 32)),
            sample_size=16,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            attention_head_dim=8,
            cross_attention_dim=32,
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            **_BLOCKS,
        ),
        "UNet1DModel": one(
            "UNet1DModel",
            together(tensors("sample", 2, 32), steps),
            block_out_channels=(32, 64),
            in_channels=2,
            out_channels=2,
            extra_in_channels=64,
            down_block_types=("DownBlock1DNoSkip", "AttnDownBlock1D"),
            up_block_types=("AttnUpBlock1D", "UpBlock1DNoSkip"),
            sample_size=32,
        ),
        "AutoencoderKL": one("AutoencoderKL", tensors("sample", 3, 32, 32), **vae),
        "AutoencoderTiny": one(
            "AutoencoderTiny",
            tensors("sample", 3, 32, 32),
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        "AutoencoderDC": one(
            "AutoencoderDC",
            tensors("sample", 3, 32, 32),
            in_channels=3,
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(16, 16),
            encoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_out_channels=(16, 16),
            decoder_layers_per_block=(1, 1),
            decoder_qkv_multiscales=((), (5,)),
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
        ),
        "VQModel": one("VQModel", tensors("sample", 3, 32, 32), num_vq_embeddings=16, **vae),
        "ControlNetModel": one(
            "ControlNetModel",
            together(tensors("sample", 4, 16, 16), steps, text(5, 32), tensors("controlnet_cond", 3, 128, 128)),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=32,
            **_BLOCKS,
        ),
        "Transformer2DModel": one(
            "Transformer2DModel",
            together(tensors("hidden_states", 16, 8, 8), text(5, 32)),
            in_channels=16,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            norm_num_groups=4,
            cross_attention_dim=32,
        ),
        "DiTTransformer2DModel": one(
            "DiTTransformer2DModel",
            lambda n: {**tensors("hidden_states", 4, 8, 8)(n), **steps(n), "class_labels": torch.randint(0, 9, (n,))},
            in_channels=4,
            norm_num_groups=4,
            num_embeds_ada_norm=10,
            **heads,
        ),
        "PixArtTransformer2DModel": one(
            "PixArtTransformer2DModel",
            lambda n: {
                **together(tensors("hidden_states", 4, 8, 8), steps, text(5, 32))(n),
                "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
            },
            in_channels=4,
            caption_channels=32,
            cross_attention_dim=16,
            use_additional_conditions=False,
            **heads,
        ),
        "SD3Transformer2DModel": one(
            "SD3Transformer2DModel",
            together(tensors("hidden_states", 4, 8, 8), steps, text(5, 32), tensors("pooled_projections", 24)),
            in_channels=4,
            out_channels=4,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=8,
            **heads,
        ),
        "FluxTransformer2DModel": one(
            "FluxTransformer2DModel",
            lambda n: {
                **together(tensors("hidden_states", 16, 4), text(5, 32), tensors("pooled_projections", 24))(n),
                "timestep": torch.rand(n),
                "img_ids": torch.zeros(16, 3),
                "txt_ids": torch.zeros(5, 3),
            },
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=24,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=False,
        ),
        "UVit2DModel": one(
            "UVit2DModel",
            lambda n: {
                "input_ids": torch.randint(0, 30, (n, 8, 8)),
                **text(5, 32)(n),
                "pooled_text_emb": torch.randn(n, 24),
                "micro_conds": torch.rand(n, 5),
            },
            hidden_size=32,
            encoder_hidden_size=32,
            cond_embed_dim=24,
            micro_cond_encode_dim=8,
            micro_cond_embed_dim=40,
            block_out_channels=32,
            num_attention_heads=2,
            block_num_heads=2,
            num_hidden_layers=2,
            intermediate_size=64,
            in_channels=32,
            vocab_size=32,
            codebook_size=31,
            sample_size=8,
        ),
    }


# --- peft -------------------------------------------------------------------------------------------------------------


def peft() -> Builders:
    """Adapters of peft on a small encoder (prompts: on a small decoder), its own weights frozen."""

    def adapted(kind: str, **options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import peft as library
            import transformers as t

            net = t.BertForSequenceClassification(t.BertConfig(num_labels=3, vocab_size=100, **_BODY))
            config = getattr(library, kind)(task_type="SEQ_CLS", **options)
            return library.get_peft_model(net, config), tokens()

        return build

    def on_images(**options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import peft as library
            import transformers as t

            net = t.ResNetForImageClassification(
                t.ResNetConfig(num_labels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
            )
            config = library.LoraConfig(target_modules=["convolution"], modules_to_save=["classifier"], **options)
            return library.get_peft_model(net, config), tensors("pixel_values", 3, 32, 32)

        return build

    names = {"target_modules": ["query", "value"]}
    feed = {"target_modules": ["query", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
    return {
        "LoRA": adapted("LoraConfig", r=4, lora_dropout=0.1, **names),
        "LoRA on convolutions": on_images(r=4),
        "rsLoRA": adapted("LoraConfig", r=4, use_rslora=True, **names),
        "DoRA": adapted("LoraConfig", r=4, use_dora=True, **names),
        "AdaLoRA": adapted("AdaLoraConfig", init_r=4, target_r=2, total_step=100, **names),
        "LoHa": adapted("LoHaConfig", r=4, **names),
        "LoKr": adapted("LoKrConfig", r=4, **names),
        "IA3": adapted("IA3Config", **feed),
        "VeRA": adapted("VeraConfig", r=4, **names),
        "OFT": adapted("OFTConfig", r=4, oft_block_size=0, **names),
        "BOFT": adapted("BOFTConfig", boft_block_size=4, **names),
        "HRA": adapted("HRAConfig", r=4, **names),
        "FourierFT": adapted("FourierFTConfig", n_frequency=20, **names),
        "VBLoRA": adapted("VBLoRAConfig", r=2, num_vectors=8, vector_length=16, topk=2, **names),
        "LayerNorm tuning": adapted("LNTuningConfig", target_modules=["LayerNorm"]),
        "Prompt tuning": adapted("PromptTuningConfig", num_virtual_tokens=4),
        "P-tuning": adapted("PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=16),
    }


# --- torch_geometric --------------------------------------------------------------------------------------------------


def torch_geometric() -> Builders:
    """Graph networks: nodes are the batch, the edges a ring of eight per sample."""

    def graph(n: int) -> Inputs:
        nodes = torch.arange(8 * n)
        ring = nodes // 8 * 8 + (nodes + 1) % 8
        edges = torch.cat((torch.stack((nodes, ring)), torch.stack((ring, nodes))), 1)
        return {"x": torch.randn(8 * n, 6), "edge_index": edges}

    def model(name: str, inputs: Callable[[int], Inputs] = graph, **options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import torch_geometric.nn as library

            sizes = {"in_channels": 6, "hidden_channels": 16, "out_channels": 3, "num_layers": 3}
            return getattr(library, name)(**sizes | options), inputs

        return build

    def layers(name: str, inputs: Callable[[int], Inputs] = graph, **options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import torch_geometric.nn as library

            return _TwoLayers(getattr(library, name), options), inputs

        return build

    def pooled() -> Built:
        return _GraphClassifier(), lambda n: {**graph(n), "batch": torch.arange(8 * n) // 8}

    def points(n: int) -> Inputs:
        return {k if k != "x" else "pos": v if k != "x" else torch.randn(8 * n, 3) for k, v in graph(n).items()}

    degrees = {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([0, 0, 8])}
    return {
        "GCN": model("GCN"),
        "GraphSAGE": model("GraphSAGE"),
        "GraphSAGE, max, jumping": model("GraphSAGE", aggr="max", jk="cat"),
        "GIN": model("GIN"),
        "GIN, batch norm": model("GIN", norm="batch_norm"),
        "GAT": model("GAT", heads=2),
        "GATv2": model("GAT", heads=2, v2=True),
        "PNA": model("PNA", **degrees),
        "EdgeCNN": model("EdgeCNN"),
        "MLP": model("MLP", lambda n: {"x": torch.randn(n, 6)}),
        "GraphUNet": lambda: _graph_unet(graph),
        "ChebConv": layers("ChebConv", K=3),
        "GraphConv": layers("GraphConv"),
        "SGConv": layers("SGConv", K=2),
        "TAGConv": layers("TAGConv"),
        "ARMAConv": layers("ARMAConv"),
        "TransformerConv": layers("TransformerConv"),
        "LEConv": layers("LEConv"),
        "GENConv": layers("GENConv"),
        "ResGatedGraphConv": layers("ResGatedGraphConv"),
        "ClusterGCNConv": layers("ClusterGCNConv"),
        "GIN, pooled to graphs": pooled,
    }


class _TwoLayers(nn.Module):
    def __init__(self, layer: Callable[..., nn.Module], options: Inputs) -> None:
        super().__init__()
        self.a, self.b = layer(6, 16, **options), layer(16, 3, **options)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.b(self.a(x, edge_index).relu(), edge_index)


class _GraphClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GIN, global_add_pool

        self.body, self.pool, self.head = GIN(6, 16, 2), global_add_pool, nn.Linear(16, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        graphs = x.shape[0] // 8  # given, since batch.max() + 1 is a size that depends on values
        return self.head(self.pool(self.body(x, edge_index).relu(), batch, graphs))


def _graph_unet(graph: Callable[[int], Inputs]) -> Built:
    from torch_geometric.nn import GraphUNet

    return GraphUNet(6, 16, 3, depth=2), graph


# --- torchaudio -------------------------------------------------------------------------------------------------------


def torchaudio() -> Builders:
    """Acoustic models."""

    def one(name: str, inputs: Callable[[int], Inputs], **options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import torchaudio.models as library

            return getattr(library, name)(**options), inputs

        return build

    def spoken(width: int, length: int) -> Callable[[int], Inputs]:
        return lambda n: {"input": torch.randn(n, length, width), "lengths": torch.full((n,), length)}

    conformer = {"input_dim": 16, "num_heads": 4, "ffn_dim": 32, "num_layers": 2, "depthwise_conv_kernel_size": 5}
    wav2vec2 = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 2)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 32,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 4,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 2,
        "encoder_num_heads": 4,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 64,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.0,
        "aux_num_out": 8,
    }
    return {
        "Conformer": one("Conformer", spoken(16, 20), **conformer),
        "Conformer, nothing padded": lambda: (_Unpadded(conformer), tensors("x", 20, 16)),
        "Wav2Letter": one("Wav2Letter", tensors("x", 1, 4000), num_classes=8),
        "DeepSpeech": one("DeepSpeech", tensors("x", 1, 20, 16), n_feature=16, n_hidden=32, n_class=8),
        "ConvTasNet": one(
            "ConvTasNet",
            tensors("input", 1, 400),
            num_sources=2,
            enc_kernel_size=16,
            enc_num_feats=16,
            msk_kernel_size=3,
            msk_num_feats=8,
            msk_num_hidden_feats=16,
            msk_num_layers=2,
            msk_num_stacks=2,
        ),
        "Emformer": one(
            "Emformer",
            spoken(16, 12),
            input_dim=16,
            num_heads=4,
            ffn_dim=32,
            num_layers=2,
            segment_length=4,
            right_context_length=2,
        ),
        "wav2vec2_model": one("wav2vec2_model", tensors("waveforms", 2000), **wav2vec2),
        "WaveRNN": one(
            "WaveRNN",
            lambda n: {"waveform": torch.randn(n, 1, 72), "specgram": torch.randn(n, 1, 8, 10)},
            upsample_scales=[2, 2, 3],
            n_classes=8,
            hop_length=12,
            n_res_block=2,
            n_rnn=16,
            n_fc=16,
            kernel_size=5,
            n_freq=8,
            n_hidden=16,
            n_output=16,
        ),
        "HDemucs": one("HDemucs", tensors("input", 2, 8192), sources=["a", "b"], channels=4, depth=6, nfft=4096),
    }


class _Unpadded(nn.Module):
    """The layers of a Conformer on sequences of one length: its own forward takes a size from the lengths' values."""

    def __init__(self, options: Inputs) -> None:
        super().__init__()
        from torchaudio.models import Conformer

        self.layers = Conformer(**options).conformer_layers

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        for layer in self.layers:
            h = layer(h, None)
        return h.transpose(0, 1)


# --- transformers -----------------------------------------------------------------------------------------------------

_BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_BODY, "vocab_size": 100, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0, "head_dim": 8}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, **_ENDS}
_SPEECH = {
    **_BODY,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 12,
    "mask_time_length": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100, "use_cache": False}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "use_cache": False,
}
_PATCHES = {"image_size": 32, "patch_size": 8}
_MIT = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 16,
    "num_labels": 3,
}
_CLIP = {"text_config": {**_BODY, "vocab_size": 100, **_ENDS}, "vision_config": {**_BODY, **_PATCHES}}


def transformers() -> Builders:
    """Hugging Face models beside those of the group ``hf``."""

    def one(model: str, config: str, inputs: Callable[[int], Inputs], **options: Any) -> Callable[[], Built]:
        def build() -> Built:
            import transformers as t

            return getattr(t, model)(getattr(t, config)(**options)), inputs

        return build

    def text(name: str, head: str, **options: Any) -> Callable[[], Built]:
        return one(f"{name}For{head}", f"{name}Config", tokens(), **{"vocab_size": 100, **_BODY, **options})

    def decoder(name: str, **options: Any) -> Callable[[], Built]:
        return one(f"{name}ForCausalLM", f"{name}Config", tokens(), **{**_DECODER, **options})

    def image(name: str, head: str, **options: Any) -> Callable[[], Built]:
        return one(f"{name}For{head}", f"{name}Config", tensors("pixel_values", 3, 32, 32), **options)

    def speech(name: str, head: str, **options: Any) -> Callable[[], Built]:
        return one(f"{name}For{head}", f"{name}Config", tensors("input_values", 800), **_SPEECH | options)

    def both(n: int) -> Inputs:
        return {"input_ids": torch.randint(3, 100, (n, 8)), "decoder_input_ids": torch.randint(3, 100, (n, 6))}

    def pairs(n: int) -> Inputs:
        return {"input_ids": torch.randint(3, 100, (n, 8)), "pixel_values": torch.randn(n, 3, 32, 32)}

    masked = {"mask_ratio": 0.5, "decoder_hidden_size": 32, "decoder_intermediate_size": 64}
    small = {**_BODY, **_PATCHES, "num_labels": 3}
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 3}
    return {
        "Wav2Vec2, CTC": speech("Wav2Vec2", "CTC"),
        "Wav2Vec2, classification": speech("Wav2Vec2", "SequenceClassification"),
        "Wav2Vec2, padded": one(
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            lambda n: {
                "input_values": torch.randn(n, 800),
                "attention_mask": (torch.arange(800) < torch.tensor([800, 500] * n)[:n, None]).long(),
            },
            **_SPEECH,
        ),
        "Wav2Vec2Conformer": speech("Wav2Vec2Conformer", "CTC"),
        "Hubert": speech("Hubert", "CTC"),
        "WavLM": speech("WavLM", "CTC"),
        "Data2VecAudio": speech("Data2VecAudio", "CTC"),
        "AST": one(
            "ASTForAudioClassification",
            "ASTConfig",
            tensors("input_values", 32, 16),
            num_labels=3,
            max_length=32,
            num_mel_bins=16,
            **_BODY,
        ),
        "Whisper": one(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            lambda n: {
                "input_features": torch.randn(n, 16, 40),
                "decoder_input_ids": torch.randint(3, 100, (n, 6)),
            },
            num_mel_bins=16,
            max_source_positions=20,
            vocab_size=100,
            decoder_start_token_id=1,
            **_BART,
            **_ENDS,
        ),
        "ViTMAE": image(
            "ViTMAE",
            "PreTraining",
            **masked,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=4,
            **_BODY,
            **_PATCHES,
        ),
        "Segformer, classification": image("Segformer", "ImageClassification", **_MIT),
        "Segformer, semantic": image("Segformer", "SemanticSegmentation", **_MIT),
        "CLIP": one("CLIPModel", "CLIPConfig", pairs, projection_dim=16, **_CLIP),
        "CLIPSeg": one(
            "CLIPSegForImageSegmentation",
            "CLIPSegConfig",
            pairs,
            projection_dim=32,
            reduce_dim=8,
            extract_layers=[0, 1],
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
            **_CLIP,
        ),
        "BEiT": image("Beit", "ImageClassification", **small),
        "DeiT": image("DeiT", "ImageClassification", **small),
        "DINOv2": image("Dinov2", "ImageClassification", **small),
        "Swinv2": image(
            "Swinv2",
            "ImageClassification",
            num_labels=3,
            image_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[2, 4],
        ),
        "PVTv2": image(
            "PvtV2",
            "ImageClassification",
            num_labels=3,
            image_size=32,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 2, 4],
        ),
        "MobileViT": image(
            "MobileViT",
            "ImageClassification",
            num_labels=3,
            image_size=32,
            hidden_sizes=[16, 24, 32],
            neck_hidden_sizes=[8, 8, 16, 24, 32, 32, 32],
        ),
        "MobileNetV2": image("MobileNetV2", "ImageClassification", num_labels=3, depth_multiplier=0.35),
        "RegNet": image("RegNet", "ImageClassification", embedding_size=8, groups_width=8, **stages),
        "LeViT": one(
            "LevitForImageClassification",
            "LevitConfig",
            tensors("pixel_values", 3, 64, 64),
            num_labels=3,
            image_size=64,
            hidden_sizes=[16, 32, 48],
            num_attention_heads=[2, 4, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        ),
        "PoolFormer": image("PoolFormer", "ImageClassification", **stages),
        "ViT, masked images": image("ViT", "MaskedImageModeling", encoder_stride=8, **_BODY, **_PATCHES),
        "DPT": image(
            "DPT",
            "DepthEstimation",
            **{**_BODY, **_PATCHES, "num_hidden_layers": 4},
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
        ),
        "VideoMAE": one(
            "VideoMAEForVideoClassification",
            "VideoMAEConfig",
            tensors("pixel_values", 4, 3, 32, 32),
            num_frames=4,
            **small,
        ),
        "TimeSformer": one(
            "TimesformerForVideoClassification",
            "TimesformerConfig",
            tensors("pixel_values", 4, 3, 32, 32),
            num_frames=4,
            **small,
        ),
        "DistilBERT": one(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            tokens(),
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=64,
            vocab_size=100,
        ),
        "RoBERTa": text("Roberta", "SequenceClassification"),
        "ALBERT": text("Albert", "SequenceClassification", embedding_size=16),
        "ELECTRA": text("Electra", "SequenceClassification", embedding_size=16),
        "DeBERTa": text("DebertaV2", "SequenceClassification", relative_attention=True, pos_att_type=["p2c", "c2p"]),
        "MobileBERT": text("MobileBert", "SequenceClassification", embedding_size=16, intra_bottleneck_size=16),
        "ConvBERT": text("ConvBert", "SequenceClassification", embedding_size=32),
        "FNet": text("FNet", "SequenceClassification"),
        "Funnel": one(
            "FunnelForSequenceClassification",
            "FunnelConfig",
            tokens(),
            vocab_size=100,
            block_sizes=[1, 1],
            d_model=32,
            n_head=4,
            d_head=8,
            d_inner=64,
        ),
        "XLNet": one(
            "XLNetForSequenceClassification",
            "XLNetConfig",
            tokens(),
            vocab_size=100,
            d_model=32,
            n_layer=2,
            n_head=4,
            d_inner=64,
        ),
        "Longformer": text("Longformer", "SequenceClassification", attention_window=[8, 8]),
        "BigBird": text("BigBird", "SequenceClassification", attention_type="original_full"),
        "Nystromformer": text("Nystromformer", "SequenceClassification", num_landmarks=4, segment_means_seq_len=16),
        "T5": one("T5ForConditionalGeneration", "T5Config", both, **_T5),
        "BART": one("BartForConditionalGeneration", "BartConfig", both, vocab_size=100, **_BART, **_ENDS),
        "GPT-2, default cache": one("GPT2LMHeadModel", "GPT2Config", tokens(), **_GPT),
        "GPT-2": one("GPT2LMHeadModel", "GPT2Config", tokens(), use_cache=False, **_GPT),
        "GPT-NeoX": decoder("GPTNeoX"),
        "OPT": one(
            "OPTForCausalLM",
            "OPTConfig",
            tokens(),
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            ffn_dim=64,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            use_cache=False,
        ),
        "BLOOM": one(
            "BloomForCausalLM",
            "BloomConfig",
            tokens(),
            vocab_size=100,
            hidden_size=32,
            n_layer=2,
            n_head=4,
            use_cache=False,
        ),
        "Falcon": one(
            "FalconForCausalLM",
            "FalconConfig",
            tokens(),
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            use_cache=False,
        ),
        "Phi": decoder("Phi"),
        "Llama": decoder("Llama"),
        "Mistral": decoder("Mistral"),
        "Qwen2": decoder("Qwen2"),
        "Gemma2": decoder("Gemma2"),
        "Mixtral": decoder("Mixtral", num_local_experts=4),
        "Mixtral, eager experts": decoder("Mixtral", num_local_experts=4, experts_implementation="eager"),
        "RWKV": one(
            "RwkvForCausalLM",
            "RwkvConfig",
            tokens(),
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            attention_hidden_size=32,
            intermediate_size=64,
            use_cache=False,
        ),
        "Mamba": one(
            "MambaForCausalLM",
            "MambaConfig",
            tokens(),
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=2,
            state_size=4,
            use_cache=False,
        ),
        "PatchTST": one(
            "PatchTSTForRegression",
            "PatchTSTConfig",
            tensors("past_values", 32, 2),
            num_input_channels=2,
            context_length=32,
            patch_length=8,
            patch_stride=8,
            d_model=32,
            num_hidden_layers=2,
            ffn_dim=64,
            num_attention_heads=4,
            num_targets=1,
        ),
    }


THIRD: dict[str, Callable[[], Builders]] = {
    "monai": monai,
    "smp": segmentation_models,
    "diffusers": diffusers,
    "peft": peft,
    "pyg": torch_geometric,
    "torchaudio": torchaudio,
    "transformers": transformers,
}
