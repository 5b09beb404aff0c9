"""A questionnaire: how hard are the questions, how able are the people?
=====================================================================

800 people answer 20 questions, right or wrong. One latent is the ability of a person. The
intercept of a question says how easy it is, and its loading how well it tells able people from
others: the two-parameter logistic model of item response theory. The answers are simulated, so
that the truth is known.
"""

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch

import pyro_expfam as pef

pyro.set_rng_seed(0)
discrimination, easiness = torch.linspace(0.5, 2.0, 20), torch.randn(20)
ability = torch.randn(800, 1)
right = torch.bernoulli((ability * discrimination + easiness).sigmoid())
answers = pd.DataFrame(right.numpy(), columns=[f"question {i}" for i in range(1, 21)])
answers = answers.where(torch.rand(answers.shape).numpy() < 0.9)  # one answer in ten is missing

# %%
# Missing answers are NaN in the frame. ``notna()`` is the mask.

mask = answers.notna()
model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=20, latent_dim=1)
guide = pef.LaplaceGuide(model, globals="laplace")
fit = guide.fit(answers, mask=mask)
print(f"converged: {fit.converged} after {fit.sweeps[-1].number} sweeps")

# %%
# Discriminations with 90% intervals, beside the truth. Abilities are known up to their
# sign.

found = guide.coefficients
sign = found.mean[:, 0].sum().sign()
estimate, sd = sign * found.mean[:, 0], found.variance().sqrt()[:, 0]
figure, ax = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
ax.errorbar(discrimination, estimate, 1.645 * sd, fmt="o", markersize=4)
ax.axline((1, 1), slope=1, color="0.6", zorder=0)
ax.set(xlabel="true discrimination", ylabel="estimate, with 90% interval")

# %%
# The ability of a person, with its uncertainty, from the questions that were answered.

with torch.no_grad():
    posterior = guide.posterior(answers, mask=mask)
error = (sign * posterior.mean - ability).square().mean().sqrt()
stated = posterior.variance.mean().sqrt()
print(f"root mean square error of abilities {error:.2f}, stated {stated:.2f}")

# %%
# With one latent the evidence of a person can be integrated by quadrature. The Laplace
# approximation is a little low, and its second order is not.

for name, evidence in {
    "Laplace": guide.log_evidence(answers, mask=mask),
    "second order": guide.log_evidence(answers, mask=mask, order=2),
    "quadrature": guide.quadrature_evidence(answers, mask=mask),
}.items():
    print(f"{name:13}{float(evidence.mean()):8.3f} nats per person")

# %%
# The report finds nothing wrong, as it should here. Real questionnaires with few questions
# deserve a look at the lines on evidence: with five questions the Laplace approximation may
# mislead.

print(pef.check(model, guide, answers, mask=mask))
