# A fit of the Laplace evidence of a table of counts by glmmTMB: its seconds and its end, as JSON.
# Arguments: a file of counts without header, and the number of latents.

suppressMessages(library(glmmTMB))
arguments <- commandArgs(trailingOnly = TRUE)
y <- as.matrix(read.csv(arguments[1], header = FALSE))
long <- data.frame(
  y = as.vector(y),
  row = factor(rep(seq_len(nrow(y)), ncol(y))),
  feature = factor(rep(seq_len(ncol(y)), each = nrow(y)))
)
model <- as.formula(
  sprintf("y ~ 0 + feature + rr(0 + feature | row, d = %d)", as.integer(arguments[2]))
)
begin <- proc.time()[["elapsed"]]
fit <- suppressWarnings(glmmTMB(model, family = poisson(), data = long, se = FALSE))
seconds <- proc.time()[["elapsed"]] - begin
# What the argument `se = TRUE` adds to a fit.
begin <- proc.time()[["elapsed"]]
covariance <- suppressWarnings(TMB::sdreport(fit$obj))$cov.fixed
of_covariance <- proc.time()[["elapsed"]] - begin
cat(sprintf(
  paste0(
    '{"seconds": %.3f, "covariance_seconds": %.3f, "has_covariance": %s, ',
    '"log_likelihood": %.9f, "at_rest": %s, "version": "%s"}\n'
  ),
  seconds, of_covariance, tolower(all(is.finite(covariance))), -fit$fit$objective, tolower(fit$fit$convergence == 0),
  as.character(packageVersion("glmmTMB"))
))
