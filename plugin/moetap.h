/* moetap for hosts in C and in languages that call C. Instrumented models (`moetap instrument`) that run in the process
 * while a session is open report to it; nothing has to be attached.
 *
 *     moetap_session* session = moetap_open("{\"output_dir\": \"run\"}");
 *     if (session == NULL) fprintf(stderr, "%s\n", moetap_last_error());
 *     ... load an instrumented model, run it ...
 *     moetap_close(session);
 *
 * Stable ABI: functions and fields are only ever added. All functions are thread-safe and throw nothing. Those that
 * return int give 0, or -1 and moetap_last_error(). Link libmoetap.so, or find the functions with dlsym in a process
 * that has it preloaded. */
#ifndef MOETAP_H
#define MOETAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* what the library exports */
#endif

/* Version of this header. A library with a larger number serves it too. */
#define MOETAP_ABI_VERSION 1

/* The number of the library that is loaded, and its version, "1.2.3". */
int moetap_abi_version(void);
const char* moetap_version(void);

/* One line on what failed last on the calling thread; "" if nothing did. Valid until the thread's next call. */
const char* moetap_last_error(void);

typedef struct moetap_session moetap_session;

/* Opens the session of the process, or returns NULL. `config_json`: text of a JSON object with the keys that a
 * configuration file has; output_dir is needed. NULL: the session that the environment asks for (MOETAP_CONFIG or
 * MOETAP_OUTPUT_DIR), which may be open already. It is an error if neither is set, or if that session was closed: the
 * environment opens one session a process.
 * One session a process at a time. Each model gets a run directory of its own: output_dir, output_dir-2, ... The first
 * forward of a model opens its directory. If that fails, one line on stderr says so and the model is not recorded; with
 * "strict", the forward fails instead. */
moetap_session* moetap_open(const char* config_json);

/* Says which samples are in the forwards that the calling thread begins from now on. `samples`: one number, 0 or more,
 * for each sequence of a forward. `generation`: 0 prompt, else generated tokens. Forwards with the same sample number
 * are merged into one log entry. Does not block. */
int moetap_label(moetap_session* session, const int64_t* samples, size_t num_samples, int generation);
int moetap_clear_label(moetap_session* session);

/* From here on forwards run unrecorded, at next to no cost, until moetap_resume; forwards that have begun are recorded.
 * They are counted in `skipped`, and use up sample numbers as if they were recorded, so that labels and numbers stay
 * right. Pausing twice is the same as once. Blocks only as a forward does when the queue is full. */
int moetap_pause(moetap_session* session);
int moetap_resume(moetap_session* session);

/* Adds a value to the log entry of the forward that the calling thread is in, or began last; before its first forward,
 * to that one. `layer`: a layer id of the log's component, decimal digits or "mm_projector". */
int moetap_log(moetap_session* session, const char* layer, const char* name, double value);

/* Blocks until everything that ended before is on disk. */
int moetap_flush(moetap_session* session);

/* Counts of the session so far, summed over its models; they mean the same as "counters" in manifest.json. Later
 * versions add fields at the end: the library fills those that struct_size covers, and sets to 0 those that it does not
 * know. */
typedef struct moetap_counters {
  size_t struct_size; /* sizeof(moetap_counters), set by the caller */
  int64_t forwards;
  int64_t tokens;
  int64_t dropped;
  int64_t unwritten;
  int64_t aborted;
  int64_t failed_hooks;
  int64_t unattributed;
  int64_t out_of_range;
  int64_t label_mismatches;
  int64_t replayed;     /* those of `forwards` that were replays of a CUDA graph; not in this header's first version */
  int64_t called_hooks; /* not in this header's first version */
  int64_t skipped;      /* not in this header's first version */
} moetap_counters;
int moetap_get_counters(moetap_session* session, moetap_counters* counters);

/* Completes the files and frees the session. -1: a file could not be written; the session is freed all the same. A
 * session that is not closed is completed when the process exits. */
int moetap_close(moetap_session* session);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* MOETAP_H */
