"""Get started
===========

scikit-learn ships 1,797 handwritten digits of 8 by 8 pixels. A pixel counts the dark points of
a 4 by 4 patch of the scan: its values are whole numbers from 0 to 16. Their natural family is
the binomial one, not the Gaussian one that PCA assumes.
"""

from sklearn.datasets import load_digits

import pyro_expfam as pef

images, digits = load_digits(return_X_y=True, as_frame=True)  # a DataFrame of counts

model = pef.ExpFamPCA(pef.families.Binomial(16), num_features=64, latent_dim=4)
guide = pef.LaplaceGuide(model)
fit = guide.fit(images)
print(f"converged: {fit.converged}, objective {fit.objective:,.0f}")

# %%
# The guide now has a loading and an intercept. ``guide.posterior`` is the posterior of the
# latents of any rows, seen in the fit or new: a normal distribution per row, in
# closed form.

posterior = guide.posterior(images)
ax = pef.plots.plot_latents(posterior, labels=digits)

# %%
# ``check`` says what of the fit can be trusted. It asks three questions: could the model
# have made this table, is the fit finished, and are posterior and evidence accurate for
# this model?

print(pef.check(model, guide, images))

# %%
# The answers differ here, as they often do on real tables. The fit is finished and
# accurate, but pixels vary more than binomial counts: neighbouring points of a scan are
# dark together. The map of the digits stands; intervals of single pixels are too narrow,
# and the report says what to do.
#
# In a terminal and in a notebook ``fit`` shows where it is: sweep, objective and seconds.
# ``progress=False`` hides the line. ``max_time=60`` ends a fit after 60 seconds: it keeps
# the best loading so far, and ``fit.converged`` is False.
#
# Next: the :doc:`tasks of the guide </guide/index>`, one page each, and the :doc:`gallery
# </gallery/index>`.
