"""Images: convolutions in place of a dense loading
==================================================

A dense loading has a number for each pixel and latent, and learns each pixel by itself. In a
convolution one kernel serves all places of an image. The latents are then a small image too, of
several channels, and the layer that finds them is a convolutional equilibrium network.

Here both have 128 numbers to learn. Images are scans of digits, 8 x 8 pixels of 0 to 16 points. In
test images each pixel is known from a single point only, black or white, and a quarter of the
pixels is hidden.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from sklearn.datasets import load_digits

import pyro_expfam as pef

pyro.set_rng_seed(0)
images = torch.tensor(load_digits().data, dtype=torch.float32)
images = images[torch.randperm(len(images))]
train, test = images[:300], images[1500:1600]
shown = torch.rand(test.shape) < 0.75  # False is hidden
noisy = pef.distributions.Binomial(torch.logit(test / 16, eps=1e-6), total_count=1).sample()

# %%
# A transposed convolution takes latents of 4 channels and 4 x 4 places to the 8 x 8 pixels. With a
# kernel of 4 x 4 it has 64 numbers, and the intercept has 64 more. A dense loading of one latent
# has as many. Both are fitted to the evidence, in which the latents are integrated out.

up = pef.linear.ConvTranspose2d(4, 1, 4, stride=2, padding=1, latent_shape=(4, 4, 4))
family = pef.families.Binomial(16)
models = {
    "convolution": pef.ExpFamPCA(family, linear_map=up),
    "dense": pef.ExpFamPCA(family, num_features=64, latent_dim=1),
}
guides = {}
for name, model in models.items():
    guides[name] = guide = pef.LaplaceGuide(model)
    fit = guide.fit(train, tol=1e-5)
    numbers = sum(parameter.numel() for parameter in guide.parameters())
    evidence = guide.log_evidence(test).mean().item()
    print(f"{name}: {numbers} numbers, {evidence:.1f} nats for a test image")

# %%
# A single point has the same likelihood as sixteen times the point among 16, with a weight of one
# sixteenth.
#
# The layer finds the latents of every image. Draws around them predict the pixels.


def predict(guide: pef.LaplaceGuide) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of the pixels, and the log likelihood of a hidden pixel."""
    with torch.no_grad():
        posterior = guide.posterior(16 * noisy, mask=shown, weights=1 / 16)
        eta = guide.linear_map(posterior.sample((200,))) + guide.intercept
        law = pef.distributions.Binomial(eta, total_count=16)
        entries = law.log_prob(test).masked_fill(shown, 0.0)
        of_images = entries.sum(-1).logsumexp(0) - np.log(len(eta))
    return law.mean.mean(0), of_images.sum() / (~shown).sum()


means = {}
for name, guide in guides.items():
    found = guide.block().solution(16 * noisy, mask=shown, weights=1 / 16)
    means[name], log_likelihood = predict(guide)
    error = (means[name] - test).abs()
    print(
        f"{name}: all rows at their root: {found.all_converged()}; log likelihood of a hidden "
        f"pixel {log_likelihood:.2f}; mean error of hidden pixels {error[~shown].mean():.2f} "
        f"points, of noisy ones {error[shown].mean():.2f}"
    )
error = (16 * noisy - test).abs()[shown].mean()
print(f"the noise itself is {error:.2f} points")

# %%
# The convolution takes away noise and continues strokes. The dense loading of one latent has little
# more than the mean of all digits.

grey = plt.get_cmap("gray_r").copy()
grey.set_bad("#9ecae1")
panels = {
    "scan": test,
    "observed": (16 * noisy).where(shown, torch.nan),
    "convolution": means["convolution"],
    "dense": means["dense"],
}
figure, grid = plt.subplots(len(panels), 8, figsize=(7, 3.8), layout="constrained")
for line, (name, table) in zip(grid, panels.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, image in zip(line, np.asarray(table), strict=False):
        axes.imshow(image.reshape(8, 8), cmap=grey, vmin=0, vmax=16)
        axes.set(xticks=[], yticks=[])

# %%
# These are the kernels. What an image has near a place is a sum of them.

figure, line = plt.subplots(1, 4, figsize=(7, 1.9), layout="constrained")
kernel = guides["convolution"].kernel
for axes, image in zip(line, kernel[:, 0], strict=True):
    axes.imshow(image, cmap="RdBu", vmin=-kernel.abs().max(), vmax=kernel.abs().max())
    axes.set(xticks=[], yticks=[])

# %%
# A dense loading needs several times as many numbers to do as well.

for latent_dim in (6, 12):
    guide = pef.LaplaceGuide(pef.ExpFamPCA(family, num_features=64, latent_dim=latent_dim))
    guide.fit(train, tol=1e-5)
    numbers = sum(parameter.numel() for parameter in guide.parameters())
    log_likelihood = predict(guide)[1]
    print(f"{latent_dim} latents, {numbers} numbers: log likelihood {log_likelihood:.2f}")
