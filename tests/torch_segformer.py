"""MiT, SegFormer and DAFormer in torch, with the attribute names of the authors' code: what the tests compare with."""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, width, heads, reduction):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x):  # [B,C,H,W]
        b, c, h, w = x.shape
        q = self.q(x.flatten(2).mT)
        x = self.norm(self.sr(x).flatten(2).mT) if hasattr(self, "sr") else x.flatten(2).mT
        k, v = self.kv(x).split(c, dim=2)
        q, k, v = (part.reshape(b, -1, self.heads, c // self.heads).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.mT / (c // self.heads) ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, h * w, c)).mT.reshape(b, c, h, w)


class DWConv(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Linear(width, hidden), DWConv(hidden), nn.Linear(hidden, width)

    def forward(self, x):
        h = self.dwconv.dwconv(self.fc1(x.movedim(1, -1)).movedim(-1, 1))
        return self.fc2(functional.gelu(h).movedim(1, -1)).movedim(-1, 1)


def channels_normed(norm, x):
    return norm(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    def __init__(self, width, heads, reduction, ratio, epsilon):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.attn, self.mlp = Attention(width, heads, reduction), Mlp(width, ratio * width)

    def forward(self, x):
        x = x + self.attn(channels_normed(self.norm1, x))
        return x + self.mlp(channels_normed(self.norm2, x))


class PatchEmbed(nn.Module):
    def __init__(self, inputs, width, size, stride):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(inputs, width, size, stride, size // 2), nn.LayerNorm(width)

    def forward(self, x):
        return channels_normed(self.norm, self.proj(x))


class MiT(nn.Module):
    def __init__(self, widths, depths, heads, reductions, mlp_ratios, epsilon=1e-6):
        super().__init__()
        for i, (size, stride) in enumerate([(7, 4), (3, 2), (3, 2), (3, 2)]):
            block = [Block(widths[i], heads[i], reductions[i], mlp_ratios[i], epsilon) for _ in range(depths[i])]
            setattr(self, f"patch_embed{i + 1}", PatchEmbed((3, *widths)[i], widths[i], size, stride))
            setattr(self, f"block{i + 1}", nn.ModuleList(block))
            setattr(self, f"norm{i + 1}", nn.LayerNorm(widths[i], epsilon))

    def forward(self, x):
        maps = []
        for i in "1234":
            x = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x)
            x = channels_normed(getattr(self, f"norm{i}"), x)
            maps.append(x)
        return maps


class MLP(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x, size):
        x = self.proj(x.movedim(1, -1)).movedim(-1, 1)
        return functional.interpolate(x, size, mode="bilinear", align_corners=False)


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, size, dilation=1, groups=1):
        super().__init__()
        padding = size // 2 * dilation
        self.conv = nn.Conv2d(inputs, outputs, size, 1, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class SeparableConvModule(nn.Module):
    def __init__(self, inputs, outputs, dilation):
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, 3, dilation, inputs)
        self.pointwise_conv = ConvModule(inputs, outputs, 1)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class SegFormerHead(nn.Module):
    def __init__(self, widths, channels, classes):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)  # as mmsegmentation makes it for every head; not used
        for i, width in enumerate(widths):
            setattr(self, f"linear_c{i + 1}", MLP(width, channels))
        self.linear_fuse = ConvModule(4 * channels, channels, 1)
        self.linear_pred = nn.Conv2d(channels, classes, 1)

    def forward(self, maps):
        parts = [getattr(self, f"linear_c{i}")(maps[i - 1], maps[0].shape[2:]) for i in (4, 3, 2, 1)]
        return self.linear_pred(self.linear_fuse(torch.cat(parts, 1)))


class ASPP(nn.Module):
    def __init__(self, inputs, channels, dilations):
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            ConvModule(inputs, channels, 1) if d == 1 else SeparableConvModule(inputs, channels, d) for d in dilations
        )
        self.bottleneck = ConvModule(len(dilations) * channels, channels, 3)

    def forward(self, x):
        return self.bottleneck(torch.cat([module(x) for module in self.aspp_modules], 1))


class DAFormerHead(nn.Module):
    def __init__(self, widths, channels, classes, dilations):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        self.embed_layers = nn.ModuleDict({str(i): MLP(width, channels) for i, width in enumerate(widths)})
        self.fuse_layer = ASPP(4 * channels, channels, dilations)

    def forward(self, maps):
        parts = [self.embed_layers[str(i)](x, maps[0].shape[2:]) for i, x in enumerate(maps)]
        return self.conv_seg(self.fuse_layer(torch.cat(parts, 1)))


class EncoderDecoder(nn.Module):
    def __init__(self, *, classes, channels, head="mlp", dilations=(1, 6, 12, 18), **encoder):
        super().__init__()
        self.backbone, widths = MiT(**encoder), encoder["widths"]
        daformer = head == "daformer"
        self.decode_head = (
            DAFormerHead(widths, channels, classes, dilations) if daformer else SegFormerHead(widths, channels, classes)
        )

    def forward(self, x):
        return self.decode_head(self.backbone(x))


@torch.no_grad()
def randomised(module, seed=0):
    """The module for evaluation, no weight or statistic of it one or zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        elif name.endswith("running_var") or name.endswith("weight"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.3, generator=generator)
    return module.eval()
