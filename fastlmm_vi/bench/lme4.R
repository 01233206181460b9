# The R side of `fastlmm-vi bench grouped`. Requests come on standard input, a line each, words apart by tabs; answers are
# lines of JSON after "=> ". Seconds are those of the processor, of one run: the mean of as many as last for `least`.
text <- function(x) encodeString(as.character(x), quote = '"')
number <- function(x) ifelse(is.finite(x), sprintf("%.17g", x), "null")
answer <- function(...) {
  fields <- list(...)
  values <- vapply(fields, function(x) paste(if (is.numeric(x)) number(x) else text(x), collapse = ", "), "")
  cat("=> {", paste0(text(names(fields)), ": [", values, "]", collapse = ", "), "}\n", sep = "")
}
if (!requireNamespace("lme4", quietly = TRUE)) {
  answer(lme4 = character())
  quit()
}
suppressMessages(library(lme4))

cpu <- function() sum(proc.time()[c("user.self", "sys.self")])
timed <- function(run, least) {
  count <- 0
  begin <- cpu()
  repeat {
    for (k in seq_len(max(count, 1))) value <- run()
    count <- count + max(count, 1)
    if (cpu() - begin >= least) return(list(seconds = (cpu() - begin) / count, value = value))
  }
}
noted <- function(run) {
  messages <- character()
  note <- function(restart) function(condition) {
    messages <<- c(messages, conditionMessage(condition))
    invokeRestart(restart)
  }
  value <- withCallingHandlers(run(), warning = note("muffleWarning"), message = note("muffleMessage"))
  list(value = value, messages = unique(messages))
}

frames <- list()
fit <- function(data, formula, reml, least) {
  model <- as.formula(formula)
  run <- function() {
    m <- lmer(model, frames[[data]], REML = reml == "TRUE")
    list(fit = m, vcov = vcov(m), sd = as.data.frame(VarCorr(m)))
  }
  found <- noted(function() timed(run, as.numeric(least)))
  end <- found$value$value
  sd <- end$sd[is.na(end$sd$var2), ]
  answer(seconds = found$value$seconds, deviance = -2 * as.numeric(logLik(end$fit)), group = sd$grp,
         effect = ifelse(is.na(sd$var1), "", sd$var1), sd = sd$sdcor, messages = found$messages)
}
pieces <- list(
  design = function(model, data, theta) function() lFormula(model, data, REML = TRUE),
  optimise = function(model, data, theta) {
    parts <- lFormula(model, data, REML = TRUE)
    function() {
      devfun <- do.call(mkLmerDevfun, parts)
      mkMerMod(environment(devfun), optimizeLmer(devfun), parts$reTrms, parts$fr)
    }
  },
  evaluation = function(model, data, theta) {
    devfun <- lmer(model, data, REML = TRUE, devFunOnly = TRUE)
    function() devfun(theta)
  })
ready <- list()
piece <- function(data, formula, which, theta, least) {
  key <- paste(data, formula, which)
  if (is.null(ready[[key]])) {
    at <- as.numeric(strsplit(theta, ",")[[1]])
    ready[[key]] <<- pieces[[which]](as.formula(formula), frames[[data]], at)
  }
  found <- timed(ready[[key]], as.numeric(least))
  answer(seconds = found$seconds, value = if (is.numeric(found$value)) found$value else numeric())
}
frame <- function(name, path, factors) {
  data <- read.csv(path, stringsAsFactors = TRUE)
  for (column in strsplit(factors, ",")[[1]]) data[[column]] <- factor(data[[column]])
  frames[[name]] <<- data
  answer(rows = nrow(data))
}
requests <- list(fit = fit, piece = piece, frame = frame)

A <- matrix(sin(seq_len(250000)), 500)
answer(R = paste(R.version$major, R.version$minor, sep = "."), lme4 = packageVersion("lme4"),
       gflops = max(replicate(5, 0.125 / timed(function() crossprod(A), 0.1)$seconds)))
input <- file("stdin", "r")
while (length(line <- readLines(input, 1))) {
  words <- strsplit(paste0(line, "\t"), "\t")[[1]]
  tryCatch(do.call(requests[[words[1]]], as.list(words[-1])), error = function(e) answer(error = conditionMessage(e)))
}
