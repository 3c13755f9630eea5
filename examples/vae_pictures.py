"""Draw what a semi-supervised VAE has learned from ten labels a class.

    python examples/vae_pictures.py docs/vae.png                  # scikit-learn's digits
    python examples/vae_pictures.py docs/vae_mnist.png --data DIR # MNIST of DIR/mnist/mnist.npz

Left: pictures it never saw, and below each what it makes of them. Middle: one style a row, one
class a column. Right: is a three nearer to a two or to an eight, as it is tilted?
"""

from __future__ import annotations

import argparse
from functools import partial

import matplotlib
import numpy as np
import torch

from recollect.generative import ConvM2, context_similarity, fit, gated_similarity, rotate
from recollect.studies import vae_tasks

matplotlib.use("Agg")
from matplotlib import pyplot

ANGLES = np.arange(-90, 91, 10)


def tiles(rows):
    """Put pictures (R, C, 1, side, side) into one, with a line of grey between them."""
    padded = torch.nn.functional.pad(rows[:, :, 0], (0, 1, 0, 1), value=0.5)
    r, c, height, width = padded.shape
    return padded.permute(0, 2, 1, 3).reshape(r * height, c * width)


def show(axes, picture, title):
    axes.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


@torch.no_grad()
def styles(model, count, seed=0):
    """Return one style a row in all ten classes: (count, 10, 1, side, side)."""
    z = torch.randn(count, model.latent_dim, generator=torch.Generator().manual_seed(seed))
    rows = [model.p_x(one.expand(10, -1), torch.arange(10)).mean for one in z]
    return torch.stack(rows)


def draw(models, task, path):
    """Draw everything of the models {D: model}; the largest D draws the pictures."""
    model, (x, y) = models[max(models)], task.test
    figure, (left, middle, right) = pyplot.subplots(
        1, 3, figsize=(13, 4.3), width_ratios=(2, 2, 3)
    )
    some = torch.stack([torch.nonzero(y == c)[:3, 0] for c in range(10)], 1).flatten()
    seen, made = x[some].unflatten(0, (3, 10)), model.reconstruct(x[some]).unflatten(0, (3, 10))
    show(left, tiles(torch.stack([seen, made], 1).flatten(0, 1)), "seen, and made of it")
    show(middle, tiles(styles(model, 6)), "one style a row, one class a column")
    threes = x[y == 3]
    turns = [partial(rotate, degrees=float(a)) for a in ANGLES]
    for dim, other in models.items():
        found = context_similarity(other, threes, 2, 8, turns)
        right.plot(ANGLES, found.numpy(), label=f"D = {dim}: log q(2) - log q(8)")
    gated = [float(gated_similarity(model, t(threes), 2, 8).mean()) for t in turns]
    right.plot(ANGLES, gated, "k:", label=f"D = {max(models)}: gated similarity of 2 and 8")
    right.axhline(0, color="0.7", lw=0.8)
    right.set_xlabel("degrees by which threes are turned (counter-clockwise)")
    right.set_title("above 0: nearer to a two; below: to an eight", fontsize=10)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(given=None, small=False):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--data")
    named = parser.parse_args(given)
    task = vae_tasks.mnist(named.data, True) if named.data else vae_tasks.digits(True)
    models = {}
    for dim in (3, 16):
        torch.manual_seed(0)
        keys = {"norm_encoder": "batch", "norm_decoder": "group", "class_embedding_dim": dim}
        models[dim] = ConvM2(**{**task.model, "width": 4 if small else 20, **keys})
        rows = slice(0, 200) if small else slice(None)
        epochs = 1 if small else 12
        fit(models[dim], task.x[rows], task.shown()[rows], epochs=epochs, **task.fitting)
    draw(models, task, named.path)


if __name__ == "__main__":
    main()
