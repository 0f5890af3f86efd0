"""Prints the torchvision numbers that the tests of vision::distort expect: python3 distort_reference.py (torchvision 0.29)."""

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as views

SIZE = 8


def image(channels):
    """Pixel values 0 to 255 of a small image, [C, H, W] in 0 to 1."""
    index = torch.arange(SIZE * SIZE * channels)
    return ((index * 37 + index * index * 11) % 256).reshape(SIZE, SIZE, channels).permute(2, 0, 1) / 255


def picked(tensor):
    """Values of four pixels, each times 255."""
    flat = tensor.permute(1, 2, 0).flatten() * 255
    return [round(flat[at].item(), 3) for at in (0, 13, 38, -1)]


def main():
    for channels in (1, 3):
        x = image(channels)
        crop = views.resized_crop(x, 1, 2, 5, 6, [SIZE, SIZE], InterpolationMode.BILINEAR, antialias=True)
        print(channels, "crop", picked(crop))
        print(channels, "crop, flip", picked(views.hflip(crop)))
        print(channels, "brightness 1.3", picked(views.adjust_brightness(x, 1.3)))
        print(channels, "contrast 0.7", picked(views.adjust_contrast(x, 0.7)))
    print("saturation 1.4", picked(views.adjust_saturation(x, 1.4)))
    print("hue 0.1", picked(views.adjust_hue(x, 0.1)))
    print("hue -0.07", picked(views.adjust_hue(x, -0.07)))
    print("grey", picked(views.rgb_to_grayscale(x, 3)))
    # Three deviations to each side, as ours: a kernel of 7 for 1.0.
    print("blur 1.0", picked(views.gaussian_blur(x, [7, 7], [1.0, 1.0])))


main()
