/* log: lines for the operator of a program: for people on a terminal, JSON lines otherwise. Library rooms do not log; they
 * return errors. The programs' tops (main/, api/, the loops of runner, replicator and agent) do. Thread-safe. */
#pragma once

#include "base/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* program names every line; format is chosen by isatty(2) unless json is forced with SLIPWAY_LOG=json or text. */
void log_open(const char *program, enum log_level lowest);
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_err(const struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
