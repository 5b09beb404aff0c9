"""Item response: what does practice bring?
========================================

600 people answer 12 questions, right or wrong, and have said how many hours they have practised.
The prior mean of a person's ability depends on the hours: a regression on a latent. The
answers are simulated, so that the truth is known.
"""

from typing import Any

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import pyro_expfam as pef

pyro.set_rng_seed(0)
num_people, num_questions, effect = 600, 12, 0.8
hours = 10 * torch.rand(num_people)
practice = (hours - hours.mean()) / hours.std()
ability = effect * practice + torch.randn(num_people)
discrimination = 0.5 + torch.rand(num_questions)
logits = ability[:, None] * discrimination + torch.randn(num_questions)
answers = torch.bernoulli(logits.sigmoid())


class Abilities(PyroModule):
    """Answers by abilities, and abilities by a covariate."""

    def __init__(self) -> None:
        super().__init__()
        self.test = pef.ExpFamPCA(pef.families.Bernoulli(), num_questions, latent_dim=1)
        self.effect: Any = PyroSample(dist.Normal(0.0, 2.0))

    def forward(self, practice: Tensor, answers: Tensor, mask: Tensor | None = None) -> Tensor:
        """The abilities of people."""
        return self.test(answers, mask=mask, latent_loc=self.effect * practice[:, None])


model = Abilities()
guide = pef.LaplaceGuide(model)
fit = guide.fit(practice, answers)
found = guide.median(practice, answers)
# Abilities are known up to their sign.
sign = found["test.loading"].sum().sign()
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")
print(f"effect of practice {float(sign * found['effect']):.2f}, in truth {effect}")

# %%
# Two steps find less. Abilities that are estimated without the hours are shrunk towards zero, and
# so is their regression on the hours, here in the same units.

two_steps = pef.LaplaceGuide(pef.ExpFamPCA(pef.families.Bernoulli(), num_questions, latent_dim=1))
two_steps.fit(answers)
with torch.no_grad():
    z = two_steps.latents(answers)[:, 0] * two_steps.loading.sum().sign()
slope = (practice * z).mean() / practice.square().mean()
print(f"in two steps {slope * (1 + effect**2) ** 0.5:.2f}")

# %%
# A person who has answered nothing yet has the ability that their hours let expect. Each answer
# makes it more certain: here the abilities of the first 40 people, from their first three answers
# and from all.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
some = slice(0, 40)
for ax, number in zip(axes, (3, num_questions), strict=True):
    answered = torch.arange(num_questions) < number
    posterior = guide.posteriors(practice[some], answers[some], mask=answered)["test.z"]
    mean, sd = sign * posterior.mean[:, 0], posterior.variance.sqrt()[:, 0]
    ax.errorbar(ability[some], mean, 1.645 * sd, fmt="o", markersize=3, lw=0.8)
    ax.axline((0, 0), slope=1, color="0.6", zorder=0)
    ax.set(title=f"{number} answers", xlabel="true ability")
axes[0].set(ylabel="estimate, with 90% interval")
