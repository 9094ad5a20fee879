#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/kith_mem.h"

struct cli cli;

static char base_url[512];
static char key_header[512];
static const char *header_list[4];
static uint64_t timeout_s = 60;
static struct kith_http_session *session; /* for the life of the program */

bool cli_ready(void)
{
    size_t n;

    if (cli.url == NULL)
        cli.url = getenv("KITH_URL");
    if (cli.url == NULL || cli.url[0] == '\0')
        cli.url = CLI_URL_DEFAULT;
    if (cli.api_key == NULL)
        cli.api_key = getenv("KITH_API_KEY");
    if (!flags_u64("timeout", cli.timeout, 1, 3600, &timeout_s))
        return false;
    n = strlen(cli.url);
    if (n >= sizeof base_url - 1 ||
        (strncmp(cli.url, "http://", 7) != 0 && strncmp(cli.url, "https://", 8) != 0)) {
        fprintf(stderr, "kith: --url %s: want http://HOST:PORT\n", cli.url);
        return false;
    }
    memcpy(base_url, cli.url, n + 1);
    while (n > 0 && base_url[n - 1] == '/')
        base_url[--n] = '\0';
    n = 0;
    header_list[n++] = "Content-Type: application/json";
    header_list[n++] = "Expect:"; /* no round trip before large bodies */
    if (cli.api_key != NULL && cli.api_key[0] != '\0') {
        if (snprintf(key_header, sizeof key_header, "api-key: %s", cli.api_key) >=
            (int)sizeof key_header) {
            fprintf(stderr, "kith: the API key is too long\n");
            return false;
        }
        header_list[n++] = key_header;
    }
    header_list[n] = NULL;
    return true;
}

const char *cli_url(void)
{
    return base_url;
}

uint32_t cli_timeout_ms(void)
{
    return (uint32_t)timeout_s * 1000;
}

const char *const *cli_headers(void)
{
    return header_list;
}

void cli_say_error(enum kith_err err, const char *detail)
{
    fprintf(stderr, "kith: %s: %s\n", base_url, detail[0] == '\0' ? kith_err_text(err) : detail);
    if (err == KITH_UNAVAILABLE)
        fprintf(stderr, "Is Kith running there? Start it with `kith up`, or name another address "
                        "with --url or KITH_URL.\n");
    else if (err == KITH_TIMEOUT)
        fprintf(stderr, "A longer --timeout may help; `kith status` shows how it is.\n");
}

void cli_say_refusal(int status, const char *error)
{
    fprintf(stderr, "kith: %s (HTTP %d)\n", error, status);
    if (status == 404)
        fprintf(stderr, "`kith collection list` shows what there is.\n");
    else if (status == 409)
        fprintf(stderr, "It is there already: delete it first, or use another name.\n");
    else if (status == 401 || status == 403)
        fprintf(stderr, "Set KITH_API_KEY to a key that may do this.\n");
    else if (status == 413)
        fprintf(stderr, "Send less at once.\n");
    else if (status == 429 || status == 503 || status == 504)
        fprintf(stderr, "Try again in a moment; `kith status` and `kith node list` show what is "
                        "missing.\n");
}

const char *cli_refusal(const struct kith_http_response *response, struct kith_json_doc **doc)
{
    struct kith_json status, error;
    const char *text;
    size_t n;

    if (*doc == NULL && response->body.len > 0 &&
        kith_json_open(doc, (const char *)response->body.data, response->body.len, NULL) != KITH_OK)
        *doc = NULL;
    if (*doc != NULL && kith_json_get(kith_json_root(*doc), "status", &status) &&
        kith_json_get(status, "error", &error) && kith_json_str(error, &text, &n))
        return text;
    return "the server refused, and did not say why in the way Kith does: is this a Kith?";
}

static bool is_plain_text(const struct kith_http_response *response)
{
    const char *type = kith_http_response_header(response, "content-type");

    return type != NULL && strncmp(type, "text/plain", 10) == 0;
}

bool cli_ask(struct cli_answer *answer, const char *method, const char *path,
             const struct kith_buf *body, int ok_status)
{
    char url[2560];
    struct kith_http_request request = {
        .method = method,
        .url = url,
        .headers = cli_headers(),
        .timeout_ms = cli_timeout_ms(),
    };
    struct kith_diag diag = {0};
    enum kith_err err = KITH_OK;
    int status;

    *answer = (struct cli_answer){0};
    if (snprintf(url, sizeof url, "%s%s", base_url, path) >= (int)sizeof url) {
        fprintf(stderr, "kith: the address is too long\n");
        return false;
    }
    if (body != NULL) {
        if (body->failed) {
            fprintf(stderr, "kith: out of memory\n");
            return false;
        }
        request.body = body->data;
        request.body_len = body->len;
    }
    if (session == NULL)
        err = kith_http_session_open(&session, &diag);
    if (err == KITH_OK)
        err = kith_http_session_ask(session, &request, &answer->response, &diag);
    if (err != KITH_OK) {
        cli_say_error(err, diag.text);
        cli_answer_fini(answer);
        return false;
    }
    status = answer->response.status;
    if (answer->response.body.len > 0 &&
        kith_json_open(&answer->doc, (const char *)answer->response.body.data,
                       answer->response.body.len, NULL) != KITH_OK)
        answer->doc = NULL;
    if (status / 100 != 2 && status != ok_status) {
        cli_say_refusal(status, cli_refusal(&answer->response, &answer->doc));
        cli_answer_fini(answer);
        return false;
    }
    if (answer->doc == NULL && !is_plain_text(&answer->response)) {
        fprintf(stderr, "kith: %s%s: the answer is no JSON: is this a Kith?\n", base_url, path);
        cli_answer_fini(answer);
        return false;
    }
    if (answer->doc != NULL &&
        !kith_json_get(kith_json_root(answer->doc), "result", &answer->result))
        answer->result = kith_json_root(answer->doc); /* "/" has no envelope */
    return true;
}

void cli_answer_fini(struct cli_answer *answer)
{
    kith_json_close(answer->doc);
    kith_http_response_fini(&answer->response);
    *answer = (struct cli_answer){0};
}

void cli_path(struct kith_buf *path, const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
        bool plain = (*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') ||
                     (*s >= 'a' && *s <= 'z') || *s == '-' || *s == '_' || *s == '.' || *s == '~';
        kith_buf_printf(path, plain ? "%c" : "%%%02X", *s);
    }
}

static const char *collection_path(const char *root, const char *name, const char *rest)
{
    static char text[2048];
    struct kith_buf path = {.limit = sizeof text - 1};

    kith_buf_text(&path, root);
    kith_buf_text(&path, "/collections/");
    cli_path(&path, name);
    kith_buf_text(&path, rest);
    if (path.failed)
        text[0] = '\0'; /* becomes a 404 */
    else
        memcpy(text, path.data, path.len);
    text[path.failed ? 0 : path.len] = '\0';
    kith_buf_fini(&path);
    return text;
}

const char *cli_collection_path(const char *name, const char *rest)
{
    return collection_path("", name, rest);
}

const char *cli_own_collection_path(const char *name, const char *rest)
{
    return collection_path("/v1", name, rest);
}

void cli_id(struct kith_json_writer *w, const char *text)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);

    if (text[0] >= '0' && text[0] <= '9' && *end == '\0')
        kith_jw_u64(w, number);
    else
        kith_jw_cstr(w, text);
}

void cli_json_copy(struct kith_json_writer *w, struct kith_json value)
{
    const char *text;
    size_t n;
    bool truth = false;
    uint64_t u;
    int64_t i = 0;
    double f = 0;
    struct kith_json item;

    switch (kith_json_type(value)) {
    case KITH_JSON_NULL:
        kith_jw_null(w);
        break;
    case KITH_JSON_BOOL:
        (void)kith_json_bool(value, &truth);
        kith_jw_bool(w, truth);
        break;
    case KITH_JSON_INT:
        if (kith_json_u64(value, &u)) {
            kith_jw_u64(w, u);
        } else {
            (void)kith_json_i64(value, &i);
            kith_jw_i64(w, i);
        }
        break;
    case KITH_JSON_FLOAT:
        (void)kith_json_f64(value, &f);
        kith_jw_f64(w, f);
        break;
    case KITH_JSON_STR:
        if (kith_json_str(value, &text, &n))
            kith_jw_str(w, text, n);
        break;
    case KITH_JSON_ARRAY:
        kith_jw_begin_array(w);
        for (struct kith_json_iter it = kith_json_iterate(value); kith_json_next(&it, &item);)
            cli_json_copy(w, item);
        kith_jw_end_array(w);
        break;
    case KITH_JSON_OBJECT:
        kith_jw_begin_object(w);
        for (struct kith_json_iter it = kith_json_iterate(value);
             kith_json_next_member(&it, &text, &n, &item);) {
            kith_jw_key_n(w, text, n);
            cli_json_copy(w, item);
        }
        kith_jw_end_object(w);
        break;
    }
}

bool cli_json_text(struct kith_json_writer *w, const char *text, const char *what)
{
    struct kith_buf padded = {0};
    struct kith_json_doc *doc = NULL;
    struct kith_diag diag = {0};

    kith_buf_text(&padded, text);
    bool ok = kith_buf_reserve(&padded, KITH_JSON_PADDING) != NULL &&
              kith_json_open(&doc, (const char *)padded.data, padded.len, &diag) == KITH_OK;
    if (ok)
        cli_json_copy(w, kith_json_root(doc));
    else
        fprintf(stderr, "kith: %s: %s\n", what, diag.text);
    kith_json_close(doc);
    kith_buf_fini(&padded);
    return ok;
}

void cli_print_json(struct kith_json value)
{
    struct kith_buf buf = {0};
    struct kith_json_writer w = {.buf = &buf};

    cli_json_copy(&w, value);
    kith_buf_byte(&buf, '\n');
    if (!buf.failed)
        fwrite(buf.data, 1, buf.len, stdout);
    kith_buf_fini(&buf);
}

void cli_text_of(struct kith_buf *out, struct kith_json value)
{
    struct kith_json_writer w = {.buf = out};
    const char *text;
    size_t n;

    kith_buf_reset(out);
    if (kith_json_type(value) == KITH_JSON_NULL)
        kith_buf_text(out, "-");
    else if (kith_json_str(value, &text, &n))
        kith_buf_append(out, text, n);
    else
        cli_json_copy(&w, value);
    kith_buf_byte(out, '\0');
    if (out->failed)
        kith_buf_reset(out);
}

void cli_cell(struct table *table, struct kith_json object, const char *key)
{
    struct kith_buf text = {0};
    struct kith_json value;

    if (kith_json_opt(object, key, &value))
        cli_text_of(&text, value);
    table_cell(table, text.len == 0 ? "-" : (const char *)text.data);
    kith_buf_fini(&text);
}

bool cli_colour(FILE *out)
{
    const char *no = getenv("NO_COLOR");
    const char *term = getenv("TERM");

    return isatty(fileno(out)) && (no == NULL || no[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

size_t cli_width(void)
{
    struct winsize size;

    if (!isatty(STDOUT_FILENO))
        return 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

void cli_print_table(const struct table *table)
{
    table_print(table, stdout, cli_width(), cli_colour(stdout));
}

bool cli_confirm(const char *question)
{
    char line[16];

    if (!isatty(STDIN_FILENO)) {
        fprintf(stderr, "kith: %s Say so with --yes.\n", question);
        return false;
    }
    fprintf(stderr, "%s [y/N] ", question);
    return fgets(line, sizeof line, stdin) != NULL && (line[0] == 'y' || line[0] == 'Y');
}
