// What the program needs of the C library and Swift cannot reach safely: getopt's globals, signals, printf's numbers.
#ifndef CPLATTER_PROGRAM_H
#define CPLATTER_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

// One long option; `value` is what platter_getopt_next returns for it.
struct platter_long_option {
  const char *name;
  int takesArgument;
  int value;
};

// Starts a fresh scan; getopt's own messages are off.
void platter_getopt_restart(void);
// The next option of `argv`, which is permuted: its value, ':' for a missing argument, '?' for an unknown option, -1 at
// the end, -2 where there is no memory. `*argument` points into `argv`, or is null.
int platter_getopt_next(int argc, char **argv, const char *shortOptions, const struct platter_long_option *longOptions,
                        size_t longOptionCount, const char **argument);
// Index of the next element of `argv` to be looked at; after the end, of the first operand.
int platter_getopt_index(void);

// Writing to a closed pipe, or past the largest size that a file may have, becomes an error; SIGUSR1 asks for progress.
void platter_prepare_signals(void);
// 1 once after each SIGUSR1.
int platter_take_progress_request(void);

// From now on SIGINT, SIGTERM and SIGHUP ask for an orderly end; another one some seconds later ends at once. One that
// follows directly counts as the same: timeout(1) sends each signal twice. Signals that the parent had ignored stay ignored.
void platter_catch_stop_signals(void);
// The signal that asked for the end, or 0.
int platter_stop_signal(void);
// Ends the program by that signal, as its parent expects.
void platter_die_of_signal(int number);

// "%.3g" and "%.2f" in the C locale; return the length.
int platter_format_three_digits(double value, char *text, size_t capacity);
int platter_format_two_decimals(double value, char *text, size_t capacity);

// "2026-11-21 08:18:14" in the machine's zone; returns the length, or 0 where the year does not fit.
int platter_format_local_time(int64_t seconds, char *text, size_t capacity);

#endif
