# Makes values.json: what lme4 and lmerTest say of models that tests/test_lmm_against_lme4.py fits too.
# Rscript tests/lme4/values.R > tests/lme4/values.json     (R packages lme4, lmerTest, nlme, jsonlite)
suppressMessages({library(lme4); library(lmerTest); library(jsonlite)})
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhobeg = 0.2, rhoend = 1e-9, maxfun = 1e5))
frames <- list(sleepstudy = sleepstudy, Penicillin = Penicillin, Pastes = Pastes,
               Orthodont = as.data.frame(nlme::Orthodont))
frames$sleepstudy$w <- (seq_len(180) - 1) %% 5 + 1
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
new <- data.frame(Days = c(0, 5, 10), Subject = c(308, 310, 999))
reml <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = tight)
cat(toJSON(list(
  versions = list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
                  lmerTest = as.character(packageVersion("lmerTest"))),
  models = blocks, weighted = values(heavy),
  profile = list(sleepstudy = intervals(days), Penicillin = intervals(plates)),
  anova = as.list(anova(small, days)[2, c("Chisq", "Df", "Pr(>Chisq)")]),
  predict = list(new = new, known = unname(predict(reml, new, allow.new.levels = TRUE)),
                 population = unname(predict(reml, new, re.form = NA)))
), digits = NA, auto_unbox = TRUE, pretty = TRUE), "\n")
