#define _GNU_SOURCE
#include "CPlatterProgram.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void platter_getopt_restart(void) {
  opterr = 0;
#ifdef __linux__
  optind = 0;
#else
  optreset = 1;
  optind = 1;
#endif
}

int platter_getopt_next(int argc, char **argv, const char *shortOptions, const struct platter_long_option *longOptions,
                        size_t longOptionCount, const char **argument) {
  struct option *options = calloc(longOptionCount + 1, sizeof *options);
  if (!options) return -2;
  for (size_t i = 0; i < longOptionCount; i++) {
    options[i].name = longOptions[i].name;
    options[i].has_arg = longOptions[i].takesArgument ? required_argument : no_argument;
    options[i].val = longOptions[i].value;
  }
  optarg = NULL;
  int value = getopt_long(argc, argv, shortOptions, options, NULL);
  *argument = optarg;
  free(options);
  return value;
}

int platter_getopt_index(void) { return optind; }

static volatile sig_atomic_t progressIsRequested;

static void request_progress(int number) {
  (void)number;
  progressIsRequested = 1;
}

void platter_prepare_signals(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, NULL);
  sigaction(SIGXFSZ, &action, NULL);
  action.sa_handler = request_progress;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, NULL);
}

int platter_take_progress_request(void) {
  if (!progressIsRequested) return 0;
  progressIsRequested = 0;
  return 1;
}

static volatile sig_atomic_t stopSignal;
static volatile sig_atomic_t stopSecond;

static void request_stop(int number) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (!stopSignal) {
    stopSignal = number;
    stopSecond = (sig_atomic_t)now.tv_sec;
  } else if ((sig_atomic_t)now.tv_sec - stopSecond >= 2) {
    signal(number, SIG_DFL);
    raise(number);
  }
}

void platter_catch_stop_signals(void) {
  static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction before, action;
    if (sigaction(numbers[i], NULL, &before) < 0 || before.sa_handler == SIG_IGN) continue;
    memset(&action, 0, sizeof action);
    action.sa_handler = request_stop;
    action.sa_flags = SA_RESTART;
    sigaction(numbers[i], &action, NULL);
  }
}

int platter_stop_signal(void) { return stopSignal; }

void platter_die_of_signal(int number) {
  signal(number, SIG_DFL);
  raise(number);
}

int platter_format_three_digits(double value, char *text, size_t capacity) {
  return snprintf(text, capacity, "%.3g", value);
}

int platter_format_two_decimals(double value, char *text, size_t capacity) {
  return snprintf(text, capacity, "%.2f", value);
}

int platter_format_local_time(int64_t seconds, char *text, size_t capacity) {
  time_t time = (time_t)seconds;
  struct tm parts;
  if (!localtime_r(&time, &parts)) return 0;
  return (int)strftime(text, capacity, "%Y-%m-%d %H:%M:%S", &parts);
}
