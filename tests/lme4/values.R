# Makes values.json: what lme4 and lmerTest say of models that tests/test_lmm_against_lme4.py fits too.
# Rscript tests/lme4/values.R > tests/lme4/values.json     (R packages lme4, lmerTest, nlme, jsonlite)
suppressMessages({library(lme4); library(lmerTest); library(jsonlite)})
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhobeg = 0.2, rhoend = 1e-9, maxfun = 1e5))
frames <- list(sleepstudy = sleepstudy, Penicillin = Penicillin, Pastes = Pastes,
               Orthodont = as.data.frame(nlme::Orthodont))
frames$sleepstudy$w <- (seq_len(180) - 1) %% 5 + 1
# Six groups twice, in blocks and in turn, and four more: orders of terms with as many levels, and with fewer first.
frames$tied <- within(sleepstudy, {
  a <- (seq_len(180) - 1) %/% 30; b <- (seq_len(180) - 1) %% 6; s <- (seq_len(180) - 1) %/% 10 %% 4
  Reaction <- Reaction + 20 * cos(3 * a) + 30 * cos(2 * b) + 40 * cos(s)
})
frames$unbalanced <- frames$sleepstudy[-c(1, 5, 17, 33, 80, 81, 82, 120, 121, 150), ]
models <- list(
  c("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
  c("unbalanced", "Reaction ~ Days + (Days || Subject)"),
  c("unbalanced", "Reaction ~ Days + I(Days^2) + (1 | Subject)"),
  c("sleepstudy", "log(Reaction) ~ factor(Days) + (1 | Subject)"),
  c("sleepstudy", "Reaction ~ 0 + Days + offset(Days^2) + (1 | Subject)"),
  c("sleepstudy", "Reaction ~ poly(Days, 2) + (0 + Days | Subject)"),
  c("Orthodont", "distance ~ age * Sex + (age | Subject)"),
  c("Orthodont", "distance ~ age + (0 + Sex | Subject)"),
  c("Orthodont", "distance ~ scale(age) + Sex:age + (1 | Subject) + (1 | Sex:age)"),
  c("Pastes", "strength ~ 1 + (1 | batch/cask)"),
  c("Pastes", "strength ~ cask + (1 | batch) + (1 | batch:cask)"),
  c("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"))
values <- function(m) {
  s <- coef(summary(m))
  list(deviance = -2 * as.numeric(logLik(m)), aic = AIC(m), bic = BIC(m), sigma = sigma(m),
       names = rownames(s), estimate = unname(s[, "Estimate"]), se = unname(s[, "Std. Error"]),
       df = unname(s[, "df"]), p = unname(s[, "Pr(>|t|)"]), singular = isSingular(m),
       sd = as.data.frame(VarCorr(m), order = "lower.tri")$sdcor)
}
fit <- function(data, formula, reml, ...)
  suppressMessages(lmerTest::lmer(as.formula(formula, env = globalenv()), frames[[data]], REML = reml, control = tight, ...))
blocks <- lapply(models, function(m) list(data = m[1], formula = m[2], reml = values(fit(m[1], m[2], TRUE)),
                                          ml = values(fit(m[1], m[2], FALSE))))
heavy <- lmerTest::lmer(Reaction ~ Days + (Days | Subject), frames$sleepstudy, weights = w, control = tight)
days <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE, control = tight)
plates <- lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, REML = FALSE, control = tight)
small <- lmer(Reaction ~ Days + (1 | Subject), sleepstudy, REML = FALSE, control = tight)
intervals <- function(m) unname(confint(m, method = "profile", quiet = TRUE))
reml <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = tight)
orders <- lapply(c(
  "Reaction ~ Days + (1 | a) + (1 | b)",
  "Reaction ~ Days + (1 | s) + (Days || Subject)",
  "Reaction ~ Days + (Days || Subject) + (1 | s)",
  "Reaction ~ Days + (1 | a) + (1 | b) + (1 | Subject)",
  "Reaction ~ Days + (1 | Subject) + (1 | s) + (0 + Days | Subject)"), function(formula) {
  m <- suppressMessages(suppressWarnings(lmer(as.formula(formula), frames$tied, control = tight)))
  list(formula = formula, theta = unname(getME(m, "theta")), groups = names(VarCorr(m)), effects = lapply(ranef(m), names))
})
drops <- lapply(list(
  c("sleepstudy", "Reaction ~ Days + (Days | Subject)", TRUE),
  c("sleepstudy", "Reaction ~ Days + (Days | Subject)", FALSE),
  c("sleepstudy", "Reaction ~ Days + (1 | Subject)", TRUE),
  c("sleepstudy", "Reaction ~ Days + (1 | Subject)", FALSE),
  c("sleepstudy", "Reaction ~ Days + (Days + I(Days^2) | Subject)", TRUE),
  c("Orthodont", "distance ~ age + (0 + Sex | Subject)", TRUE),
  c("sleepstudy", "Reaction ~ Days + (factor(Days > 4) + Days | Subject)", TRUE),
  c("Pastes", "strength ~ 1 + (1 | batch/cask)", TRUE),
  c("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", TRUE)), function(m) {
  dropped <<- frames[[m[1]]]  # ranova evaluates the call once more
  call <- bquote(lmerTest::lmer(.(as.formula(m[2])), dropped, REML = .(as.logical(m[3])), control = tight))
  table <- suppressWarnings(suppressMessages(ranova(eval(call))))
  list(data = m[1], formula = m[2], method = if (as.logical(m[3])) "reml" else "ml", rows = rownames(table),
       npar = table$npar, loglik = table$logLik, chisq = table$LRT, df = table$Df, p = table[["Pr(>Chisq)"]])
})
joint <- function(m, L) {
  table <- contest(m, L)
  list(df1 = table$NumDF, df2 = table$DenDF, F = table[["F value"]], p = table[["Pr(>F)"]])
}
apart <- function(m, L) {
  table <- contest(m, L, joint = FALSE)
  list(estimate = table$Estimate, se = table[["Std. Error"]], df = table$df, t = table[["t value"]],
       p = table[["Pr(>|t|)"]])
}
growth <- fit("Orthodont", "distance ~ age * Sex + (age | Subject)", TRUE)
unequal <- fit("unbalanced", "Reaction ~ Days + I(Days^2) + (Days || Subject)", TRUE)
L <- rbind(c(0, 0, 1, 0), c(0, 0, 0, 1), c(0, 0, 1, 1))  # of rank 2
new <- data.frame(Days = c(0, 5, 10), Subject = c(308, 310, 999))
cat(toJSON(list(
  versions = list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
                  lmerTest = as.character(packageVersion("lmerTest"))),
  models = blocks, weighted = values(heavy),
  profile = list(sleepstudy = intervals(days), Penicillin = intervals(plates)),
  orders = orders, drops = drops,
  tests = list(two = joint(growth, L[1:2, ]), dependent = joint(growth, L), apart = apart(growth, L),
               # Its degrees of freedom depend on the units of the hypotheses: here standard errors.
               unequal = joint(unequal, rbind(c(0, 1, 0), c(0, 0, 1)) / coef(summary(unequal))[2:3, "Std. Error"])),
  refitted = as.list(anova(reml, update(reml, . ~ . - Days), refit = TRUE)[2, c("Chisq", "Df", "Pr(>Chisq)")]),
  response = values(fit("sleepstudy", "sqrt(Reaction) ~ Days + (Days | Subject)", TRUE)),
  anova = as.list(anova(small, days)[2, c("Chisq", "Df", "Pr(>Chisq)")]),
  predict = list(new = new, known = unname(predict(reml, new, allow.new.levels = TRUE)),
                 population = unname(predict(reml, new, re.form = NA)))
), digits = NA, auto_unbox = TRUE, pretty = TRUE), "\n")
