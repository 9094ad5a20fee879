/* What the verbs share: where Kith is, asking it, printing its answers and its errors.
 *
 * Owns: one HTTP session per program. Threads: main. Errors: said on stderr here, with what to do
 * next; callers only return CLI_FAILED. */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/flags.h"
#include "cli/table.h"
#include "common/kith_buf.h"
#include "common/kith_http_client.h"
#include "common/kith_json.h"

#define CLI_URL_DEFAULT "http://127.0.0.1:6333"

enum cli_exit { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_PARTLY = 3 };

/* The flags every verb has; set by flags_parse. */
struct cli {
    const char *url;
    const char *api_key;
    const char *timeout;
    bool json;
};
extern struct cli cli;

/* After flags_parse: environment and checks. False: said why. */
bool cli_ready(void);
const char *cli_url(void); /* without a trailing slash */
uint32_t cli_timeout_ms(void);
/* "Name: value", ..., NULL: what every request carries. */
const char *const *cli_headers(void);

struct cli_answer {
    struct kith_http_response response;
    struct kith_json_doc *doc; /* NULL when the body is no JSON */
    struct kith_json result;   /* .result of the envelope; null when there is none */
};

/* Asks METHOD url/path. False: not reachable or not 2xx; said so. ok_status: another status that
 * counts as success (0 = none). body NULL = none. */
bool cli_ask(struct cli_answer *answer, const char *method, const char *path,
             const struct kith_buf *body, int ok_status);
void cli_answer_fini(struct cli_answer *answer);

/* The error text of an answer that was refused, or its reason; borrowed from the answer. */
const char *cli_refusal(const struct kith_http_response *response, struct kith_json_doc **doc);
/* One sentence on stderr, and what to try. */
void cli_say_error(enum kith_err err, const char *detail);
void cli_say_refusal(int status, const char *error);

/* path pieces: percent-encodes text. */
void cli_path(struct kith_buf *path, const char *text);
/* "/collections/NAME" + rest, in a static buffer. */
const char *cli_collection_path(const char *name, const char *rest);
/* The same below /v1, where Kith's own verbs are. */
const char *cli_own_collection_path(const char *name, const char *rest);

/* --filter values into {"must":[...]}: JSON as it is, or key=value, key!=value, key>=n, <=, >, <.
 * False: said why. Writes nothing when there are none. */
bool cli_filter(struct kith_json_writer *w, const struct flags_many *filters);
/* An id from a command line: digits are a number, else a string. */
void cli_id(struct kith_json_writer *w, const char *text);

/* Prints a value as JSON on stdout, with a newline. */
void cli_print_json(struct kith_json value);
void cli_json_copy(struct kith_json_writer *w, struct kith_json value);
/* JSON given as an argument, copied. False: it is none; "kith: <what>: <why>" was said. */
bool cli_json_text(struct kith_json_writer *w, const char *text, const char *what);
/* A value as a person reads it: strings without quotes, the rest as JSON. False: memory. */
void cli_text_of(struct kith_buf *out, struct kith_json value);
/* A member as a cell; "-" when there is none. */
void cli_cell(struct table *table, struct kith_json object, const char *key);
void cli_print_table(const struct table *table);
bool cli_colour(FILE *out);
size_t cli_width(void);                 /* of the terminal on stdout; 0 = none */
bool cli_confirm(const char *question); /* no without a terminal */

#endif
