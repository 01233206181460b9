# Makes designs.json: what R and lme4 make of formulas that tests/test_designs_against_lme4.py reads too.
# Rscript tests/lme4/designs.R > tests/lme4/designs.json     (R packages lme4, jsonlite)
# Every column of X and Z stands for itself by its product with (sin 1, sin 2, …), rows left out not counted.
suppressMessages({library(lme4); library(splines); library(jsonlite)})
set.seed(2)
n <- 84
frame <- data.frame(
  y = round(rnorm(n), 3), x = round(rnorm(n), 3), z = round(runif(n, 1, 5), 3), k = sample(1:3, n, TRUE),
  a = sample(c("p", "q", "r"), n, TRUE), flag = sample(c(TRUE, FALSE), n, TRUE), g = rep(1:7, 12),
  t = round(seq_len(n) * 0.145 - 6, 3), h = sample(LETTERS[1:5], n, TRUE), day = as.character(as.Date("2024-02-27") + sample(0:4, n, TRUE)))
sizes <- 2:7
for (J in sizes) frame[[paste0("o", J)]] <- paste0("l", sample(c(1:J, sample(J, n - J, TRUE)), n))
gap <- function(x, i) { x[i] <- NA; x }
frame <- transform(frame, y_ = gap(y, c(2, 30, 31)), x_ = gap(x, c(2, 17)), z_ = gap(z, 60:66), a_ = gap(a, 4), f_ = gap(flag, 5),
                   k_ = gap(k, c(9, 70)))
data <- frame
for (J in sizes) data[[paste0("o", J)]] <- factor(frame[[paste0("o", J)]], paste0("l", 1:J), ordered = TRUE)
data$day <- as.Date(frame$day)
formulas <- c(
  # Ordered factors
  sprintf("y ~ %s + (1 | g)", c(paste0("o", sizes), "0 + o3", "0 + a + o3", "0 + o3 + a", "o4*x", "o3:x", "x:o3", "0 + x:o3", "o2*o3",
    "a*o3", "o3*a", "a:o3", "o3 + o3:a", "a + o3:a", "0 + a:o2", "factor(o3)", "as.factor(o5)", "I(o3)",
    "factor(o3, levels = c('l3', 'l1', 'l2'))", "factor(o4, ordered = FALSE)", "factor(a, levels = c('q', 'r', 'p'), ordered = TRUE)", "interaction(o2, a)", "(o2 + o3 + a)^2")),
  sprintf("y ~ x + %s", c("(o3 | g)", "(0 + o3 | g)", "(o3 || g)", "(o3:x | g)", "(1 | o7)", "(1 | o3:g)", "(o2 | g) + (1 | o5)")),
  # Logicals
  sprintf("y ~ %s + (1 | g)", c("flag", "0 + flag", "flag*x", "flag:x", "flag*a", "a:flag", "flag:a", "o3*flag", "factor(flag)",
    "I(flag)", "(x > 0)*a", "as.numeric(flag)")),
  sprintf("y ~ x + %s", c("(flag | g)", "(0 + flag | g)", "(flag || g)", "(flag:x | g)", "(1 | flag)", "(1 | flag:g)", "(1 | g/flag)")),
  # Missing values
  sprintf("y_ ~ %s + (1 | g)", c("scale(x)", "scale(z) + x_", "scale(x_) + z_", "scale(x_, scale = FALSE)", "poly(x, 3) + z_",
    "poly(x, 2)*a_", "poly(x_, 2, raw = TRUE)", "bs(z, df = 5) + x_", "bs(z_, df = 4) + bs(x_, knots = 0)", "scale(scale(x_) + z_)",
    "scale(I(x_^2)) + I(scale(z_)^2)", "a_*f_ + factor(k_)", "o4 + x_", "a_:scale(z)")),
  "scale(y_) ~ scale(x_) + (scale(z) | g)", "y ~ x + offset(scale(z_)) + (1 | k_)", "y_ ~ x_ + (scale(z) || a_)",
  "y ~ x + (1 | f_:h)",
  # The rest of the language
  sprintf("y ~ %s + (1 | g)", c("factor(k)*x", "a/x", "a %in% flag", "x + I(x^2)", "log(z, base = 2)", "poly(x, 2):a", "0 + x + a",
    "x + a:o2:flag", "offset(z) + offset(log(z)) + x",
    "round(t, 1)", "round(t, digits = 2)", "round(t)", "round(100*t, -1)", "scale(x, center = F)", "scale(z, T, F)")),
  sprintf("y ~ x + %s", c("(1 | h/k)", "(x | h/flag)", "(1 | day)", "(a || g)", "(1 | k:h)", "(poly(x, 2) | g)")))
probe <- function(M) as.vector(as.matrix(M) %*% sin(seq_len(ncol(M))))
control <- lmerControl(check.nobs.vs.nRE = "ignore", check.nobs.vs.rankZ = "ignore", check.rankX = "ignore")
described <- lapply(formulas, function(text) {
  parts <- lFormula(as.formula(text), data, control = control)
  random <- parts$reTrms
  groups <- names(random$cnms)
  list(formula = unbox(text), n = unbox(nrow(parts$fr)), y = unbox(sum(model.response(parts$fr) * sin(seq_len(nrow(parts$fr))))),
       offset = unbox(if (is.null(model.offset(parts$fr))) 0 else sum(model.offset(parts$fr) * sin(seq_len(nrow(parts$fr))))),
       names = colnames(parts$X), X = probe(t(parts$X)),
       terms = unname(Map(function(group, effects, Zt)
         list(group = unbox(sub("\\.[0-9]+$", "", group)), effects = effects, levels = levels(random$flist[[group]]), Z = probe(Zt)),
         groups, unname(random$cnms), unname(random$Ztlist))))
})
cat(toJSON(list(versions = list(R = unbox(R.version.string), lme4 = unbox(as.character(packageVersion("lme4")))),
                data = as.list(frame), designs = described), digits = 14, na = "null"), "\n")
