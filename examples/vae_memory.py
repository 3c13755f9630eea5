"""A memory of what a semi-supervised VAE saw: its classes are counted, its latents drawn again.

    python examples/vae_memory.py docs/vae_memory.png

The VAE learns scikit-learn's digits from ten labels a class. Then it watches pictures it never
saw, and only sketches are kept. From them the memory counts classes, finds the same digit in the
same hand, and the model draws what it saw.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

import matplotlib
import numpy as np
import torch

from recollect import Memory, Sketcher, Trace, recall
from recollect.generative import ConvM2, fit, glance_columns
from recollect.studies import vae_tasks

matplotlib.use("Agg")
from matplotlib import pyplot

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIM, KEPT = 64, 100  # numbers of a sketch; glances that the prior is learned from


def learn(task, epochs):
    """Return a VAE that has learned from ten labels a class."""
    torch.manual_seed(0)
    model = ConvM2(**task.model, norm_encoder="batch", norm_decoder="group")
    fit(model, task.x, task.shown(), epochs=epochs, **task.fitting)
    return model


def remember(folder, columns):
    """Return a memory of the glances: sketches, and a prior of the first of them."""
    memory = Memory(folder, Sketcher(dim=DIM, seed=0), reservoir=KEPT)
    t = Trace.from_columns(columns)
    times = np.datetime64("2026-01-01T08:00") + np.arange(len(t)) * np.timedelta64(1, "m")
    memory.add(t, time=times, ids=range(len(t)))
    memory.fit_prior()
    return memory


def read_back(memory, columns):
    """Return latents (B, L) and classes (B,) read from the sketches."""
    count = len(columns["class"]["glance"])
    read = memory.sketcher.decode(memory.sketches(ids=range(count)), prior=memory.prior())
    latents = torch.zeros(columns["class"]["attributes"].shape)
    classes = torch.zeros(count, dtype=torch.int64)
    for number, name in enumerate(NAMES):
        if (columns["class"]["member"] == number).any():
            found = read.objects(name)
            latents[found.glance] = torch.as_tensor(found.attributes)
            classes[found.glance] = number
    return latents, classes


def explained(truth, found):
    """Return the share of the variance of truth (B, ...) that is explained."""
    return 1 - float((truth - found).pow(2).sum() / (truth - truth.mean(0)).pow(2).sum())


def measure(model, memory, columns, x, y):
    """Return what is counted, read back and drawn, as lines of text."""
    truth = columns["class"]["attributes"]
    seen = torch.from_numpy(columns["class"]["member"])
    latents, classes = read_back(memory, columns)
    with torch.no_grad():
        drawn, meant = model.p_x(latents, classes).mean, model.p_x(truth, seen).mean
    wrong = sum(
        abs(recall.count(memory, name, unit="glances")["estimate"][0] - int((seen == k).sum()))
        for k, name in enumerate(NAMES)
        if (seen == k).any()
    )
    alike = [y[recall.similar(memory, query, k=1)["glance"][0]] == y[query] for query in range(50)]
    return [
        f"classes as the labels say: {float((seen == y).float().mean()):.3f} of {len(y)}",
        f"glances counted wrongly, over all classes: {wrong:g}",
        f"latents from sketches of {DIM} numbers: R2 {explained(truth, latents):.4f}",
        f"pictures drawn from sketches: R2 {explained(x, drawn):.3f}, from the latents "
        f"themselves {explained(x, meant):.3f}, from the class alone "
        f"{explained(x, class_means(meant, seen)):.3f}",
        f"the most similar glance shows the same digit: {float(np.mean(alike)):.2f}",
    ]


def class_means(pictures, classes):
    """Return for each picture the mean one of its class."""
    return torch.stack([pictures[classes == c].mean(0) for c in classes.tolist()])


def draw(model, memory, columns, x, path, count=12):
    """Draw pictures, what the model makes of them, and what is left of that in the memory."""
    latents, classes = read_back(memory, columns)
    truth = columns["class"]["attributes"]
    with torch.no_grad():
        rows = (x, model.p_x(truth, classes).mean, model.p_x(latents, classes).mean)
    figure, axes = pyplot.subplots(3, count, figsize=(count, 3.3))
    for row, pictures, name in zip(axes, rows, ("seen", "drawn", "remembered"), strict=True):
        row[0].set_ylabel(name)
        for place, picture in zip(row, pictures[-count:], strict=True):
            place.imshow(picture[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
            place.set_xticks([])
            place.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(given=None, small=False):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    named = parser.parse_args(given)
    task = vae_tasks.digits(True)
    if small:
        task = replace(task, x=task.x[:300], y=task.y[:300])
    model = learn(task, 1 if small else 8)
    x, y = task.test
    columns = glance_columns(model, x, names=NAMES)
    with (
        tempfile.TemporaryDirectory() as folder,
        remember(f"{folder}/digits", columns) as memory,
    ):
        lines = measure(model, memory, columns, x, y)
        draw(model, memory, columns, x, named.path)
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    main()
