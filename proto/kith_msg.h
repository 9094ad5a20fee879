/* Messages between coordinators and shards, and from shard to shard: the bodies of frames, as
 * msgpack arrays of fixed positions.
 *
 * Each message has a struct, a writer and a reader. Readers borrow from the body, check every count
 * and size, and return false on anything malformed (the caller answers KITH_PROTOCOL). A reader
 * accepts longer arrays than it knows (a newer peer) and ignores the rest. A request has one reply
 * of the same message number + 1; any request may be answered by ERROR instead. One message per
 * node: a request names all the slices it wants from that node. */
#ifndef KITH_MSG_H
#define KITH_MSG_H

#include "proto/kith_collection.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

enum kith_message {
    KITH_MSG_ERROR = 1,
    KITH_MSG_PING = 2, /* body: empty array; the reply too */
    KITH_MSG_PONG = 3,
    KITH_MSG_OPEN = 4, /* create if missing and open slices; idempotent */
    KITH_MSG_OPENED = 5,
    KITH_MSG_DROP = 6, /* remove slices and their data; idempotent */
    KITH_MSG_DROPPED = 7,
    KITH_MSG_WRITE = 8,
    KITH_MSG_WRITTEN = 9,
    KITH_MSG_SEARCH = 10,
    KITH_MSG_FOUND = 11,
    KITH_MSG_FETCH = 12,
    KITH_MSG_RECORDS = 13,
    KITH_MSG_COUNT = 14,
    KITH_MSG_COUNTED = 15,
    KITH_MSG_SCROLL = 16,
    KITH_MSG_SCROLLED = 17,
    KITH_MSG_FACET = 18,
    KITH_MSG_FACETS = 19,
    KITH_MSG_INFO = 20,
    KITH_MSG_INFOS = 21,
    KITH_MSG_MEMORY = 22,
    KITH_MSG_MEMORIES = 23,
    KITH_MSG_CODEBOOK = 24, /* shard to shard, as is SAMPLE */
    KITH_MSG_CODEBOOKED = 25,
    KITH_MSG_SAMPLE = 26,
    KITH_MSG_SAMPLED = 27,
};

/* Which slices of which collection: begins every request but PING. */
struct kith_msg_scope {
    uint64_t collection;
    uint32_t n_slices;
    uint32_t slices[KITH_SLICES_PER_COLLECTION_MAX];
};

/* How one slice fared: begins every reply but ERROR and PONG, one per slice asked for. */
struct kith_msg_slice {
    uint32_t slice;
    enum kith_err err;        /* KITH_OK or why this slice has no part in the answer */
    uint64_t points;          /* live points the answer looked at */
    uint64_t seq;             /* the slice's sequence number at that moment */
    struct kith_bytes detail; /* text for humans when err is set */
};
struct kith_msg_slices {
    uint32_t n_slices;
    struct kith_msg_slice slices[KITH_SLICES_PER_COLLECTION_MAX];
};

struct kith_msg_error {
    enum kith_err err;
    struct kith_bytes text;
};

struct kith_msg_open {
    struct kith_msg_scope scope;
    uint32_t dim;
    enum kith_metric metric;
    enum kith_row_type rows;
    enum kith_index index;
    char factory[KITH_FAISS_FACTORY_MAX + 1]; /* of KITH_INDEX_FAISS; else "" and not on the wire */
};
/* OPENED, DROPPED: struct kith_msg_slices. DROP: struct kith_msg_scope. INFO, MEMORY: scope. */

struct kith_msg_write {
    struct kith_msg_scope scope; /* exactly one slice */
    uint64_t op_id;
    struct kith_bytes ops; /* proto/kith_ops.h */
};
struct kith_msg_written {
    struct kith_msg_slices slices;
    uint64_t affected;
};

/* One search: n_queries vectors that share filter, k and threshold. */
struct kith_msg_search_part {
    uint32_t n_queries;
    struct kith_bytes vectors; /* n_queries * dim * 4 bytes, f32 LE */
    uint32_t k;
    bool has_threshold;
    float threshold;          /* rank (proto/kith_collection.h): hits below it are dropped */
    struct kith_bytes filter; /* msgpack map or empty */
    /* How hard to search; all zero is the default, and then not on the wire. */
    bool exact;        /* no index is used */
    bool indexed_only; /* segments that are to have an index and have none yet are left out */
    bool explain;      /* the reply says how the part was searched */
    bool no_rescore;   /* ranks are those of the index's bytes; rows are not read */
    float recall;      /* the target in (0, 1]; 0: the node's default */
    float margin;      /* times the usual number of standard errors below which codes leave a row
                          out, at least 1, infinity: they leave none out; 0: as usual */
};
struct kith_msg_search {
    struct kith_msg_scope scope;
    uint32_t dim;
    uint32_t n_parts;
    struct kith_bytes parts; /* read with kith_msg_search_next */
};
/* FOUND: slices; then per part: matched; then per query: hits, packed KITH_HIT_BYTES each, best
 * first; then how the parts that asked for it were searched. */
#define KITH_HIT_BYTES 29u /* id (17), rank f32 LE, seq u64 LE */
struct kith_hit {
    struct kith_id id;
    float rank;
    uint64_t seq;
};
struct kith_msg_found {
    struct kith_msg_slices slices;
    uint32_t n_parts;
    struct kith_cursor
        parts; /* per part: kith_msg_found_part, then kith_msg_found_hits for each query; then, if
                  has_explains, kith_msg_found_explains and kith_msg_found_explain for each */
    bool has_explains; /* an older node sends none */
};

/* How one part was searched, all of its queries together. */
struct kith_msg_explain {
    uint32_t part;
    struct kith_bytes plan;              /* "lists_masked" */
    uint32_t filter_hits, filter_misses; /* answers of filters that were kept, that were made */
    uint32_t segments_indexed, segments_plain, heads;
    uint32_t fell_back; /* queries done again exactly */
    float recall;       /* the target; 1: exact */
    uint64_t rows;      /* ranked exactly one by one */
    uint64_t lists, list_rows, reranked, reranked_exactly;
    uint64_t expected_ns, exact_ns, ns;
    uint32_t nprobe, ef_search, k_factor; /* of Faiss; an older node does not say */
};
#define KITH_PLAN_NAME_MAX 32u /* bytes of a plan's name */

struct kith_msg_fetch {
    struct kith_msg_scope scope;
    bool with_payload, with_vector;
    uint32_t n_ids;
    struct kith_bytes ids; /* elements as kith_write_id wrote them; the shard looks each up in every
                              slice asked for */
};
struct kith_record {
    struct kith_id id;
    uint64_t seq;
    struct kith_bytes payload; /* msgpack map; empty = none or not asked for */
    struct kith_bytes vector;  /* f32 LE; empty = not asked for */
    struct kith_bytes
        order; /* SCROLL with order_by: the msgpack scalar it was ordered by; else empty */
};
/* RECORDS, SCROLLED: slices, then records (kith_msg_records_next). */
struct kith_msg_records {
    struct kith_msg_slices slices;
    uint32_t n_records;
    struct kith_cursor records;
};

struct kith_msg_count {
    struct kith_msg_scope scope;
    struct kith_bytes filter;
};
struct kith_msg_counted {
    struct kith_msg_slices slices;
    uint64_t count;
};

struct kith_msg_scroll {
    struct kith_msg_scope scope;
    struct kith_bytes filter;
    uint32_t
        limit; /* each slice returns at most so many; they come merged over the node's slices */
    bool has_from;
    struct kith_id from;         /* first id wanted, inclusive; without order_by */
    struct kith_bytes order_key; /* empty = by id */
    bool descending;
    struct kith_bytes
        start_from; /* msgpack number or RFC 3339 text, inclusive; empty = from the start */
    bool with_payload, with_vector;
};

struct kith_msg_facet {
    struct kith_msg_scope scope;
    struct kith_bytes key;
    struct kith_bytes filter;
};
/* FACETS: slices, then (value, count) pairs, each value once per node: kith_msg_facets_next. */
struct kith_msg_facets {
    struct kith_msg_slices slices;
    uint32_t n_hits;
    struct kith_cursor hits;
};

/* INFOS: slices, then per slice (same order) its facts, then per field of the node its schema, then
 * how well the collection's queries were answered on the node. */
struct kith_msg_info_slice {
    uint64_t live_points, deleted_points, head_rows, segments;
    uint64_t segment_bytes, wal_bytes, head_bytes;
    bool failed;
    uint64_t indexed_points; /* live ones in segments with an index */
    bool busy;               /* sealing, merging or indexing is going on or due */
    /* Of the collection on this node. */
    enum kith_index_phase phase;
    uint32_t generation, n_lists; /* of the codebook; 0: none */
    uint64_t codebook;            /* its hash; 0: none */
};
struct kith_msg_info_field {
    struct kith_bytes path;
    uint32_t types;  /* bits: 1 keyword, 2 bool, 4 integer, 8 float, 16 datetime */
    uint64_t points; /* rows with a value */
};
/* Of queries that were searched again exactly. */
struct kith_msg_info_recall {
    struct kith_bytes plan;  /* "lists" */
    struct kith_bytes share; /* of points that match, at least: "0.1" */
    uint64_t queries;        /* compared since the node was started */
    float recall;            /* of late, on average */
};
#define KITH_RECALLS_MAX 64u /* plans times shares, of one collection */
struct kith_msg_infos {
    struct kith_msg_slices slices;
    struct kith_msg_info_slice info[KITH_SLICES_PER_COLLECTION_MAX];
    uint32_t n_fields;
    struct kith_cursor fields; /* then, if has_recalls, kith_msg_info_recalls and each */
    bool has_recalls;          /* an older node sends none */
};

/* MEMORIES: slices, then where the bytes of those that answered are, by kind of content; then what
 * the whole node may keep locked in memory, and does. */
#define KITH_MEMORY_SECTIONS_MAX 32u
#define KITH_MEMORY_NAME_MAX     32u
struct kith_msg_memory_section {
    struct kith_bytes name;            /* "rows8" */
    uint64_t file;                     /* bytes on disk */
    uint64_t mapped, resident, locked; /* of address space; of memory; kept there */
};
struct kith_msg_memories {
    struct kith_msg_slices slices;
    uint32_t n_sections;
    struct kith_msg_memory_section sections[KITH_MEMORY_SECTIONS_MAX];
    uint64_t lock_budget, locked;
    bool lock_refused; /* the system allows less than the budget */
};

/* How far a node is with the codebook of a collection, and a piece of it. */
struct kith_msg_codebook {
    struct kith_msg_scope scope;
    uint64_t hash;   /* of which bytes are wanted; 0: of none */
    uint64_t offset; /* of the first one */
};
struct kith_msg_codebooked {
    struct kith_msg_slices slices;
    uint32_t generation; /* of the newest codebook the node has; 0: it has none */
    uint64_t hash, bytes;
    float energy;         /* mean residual energy of rows that were given a list with it lately */
    uint64_t energy_rows; /* how many those are; 0: energy says nothing */
    struct kith_bytes piece; /* from offset, at most KITH_CODEBOOK_PIECE; empty when the node has no
                                codebook of that hash any more */
};

/* Rows drawn at random, for training. Part `part` of `n_parts` has its own rows, none twice. */
struct kith_msg_sample {
    struct kith_msg_scope scope;
    uint32_t n_rows; /* wanted; no more come than fit KITH_SAMPLE_PIECE */
    uint32_t part, n_parts;
    uint64_t seed;
};
struct kith_msg_sampled {
    struct kith_msg_slices slices;
    uint32_t dim;
    struct kith_bytes rows; /* f32 LE, whole rows */
};

/* ---- writers
 * --------------------------------------------------------------------------------------- */
void kith_msg_write_error(struct kith_writer *w, enum kith_err err, const char *text);
void kith_msg_write_scope_only(struct kith_writer *w,
                               const struct kith_msg_scope *scope); /* DROP, INFO, MEMORY */
void kith_msg_write_open(struct kith_writer *w, const struct kith_msg_open *msg);
void kith_msg_write_write(struct kith_writer *w, const struct kith_msg_write *msg);
void kith_msg_write_count(struct kith_writer *w, const struct kith_msg_count *msg);
void kith_msg_write_scroll(struct kith_writer *w, const struct kith_msg_scroll *msg);
void kith_msg_write_facet(struct kith_writer *w, const struct kith_msg_facet *msg);
void kith_msg_write_fetch(struct kith_writer *w, const struct kith_msg_fetch *msg);
/* Head; then n_parts times kith_msg_write_search_part. */
void kith_msg_write_search(struct kith_writer *w, const struct kith_msg_scope *scope, uint32_t dim,
                           uint32_t n_parts);
void kith_msg_write_search_part(struct kith_writer *w, const struct kith_msg_search_part *part,
                                uint32_t dim);

void kith_msg_write_slices_only(struct kith_writer *w,
                                const struct kith_msg_slices *slices); /* OPENED, DROPPED */
void kith_msg_write_written(struct kith_writer *w, const struct kith_msg_written *msg);
void kith_msg_write_counted(struct kith_writer *w, const struct kith_msg_counted *msg);
/* Head; then per part: _found_part, then n_queries times _found_hits. */
void kith_msg_write_found(struct kith_writer *w, const struct kith_msg_slices *slices,
                          uint32_t n_parts);
void kith_msg_write_found_part(struct kith_writer *w, uint64_t matched, uint32_t n_queries);
enum kith_err kith_msg_write_found_hits(struct kith_writer *w, const struct kith_hit *hits,
                                        uint32_t n);
/* After the last part: how many explains follow, then each. */
void kith_msg_write_found_explains(struct kith_writer *w, uint32_t n);
void kith_msg_write_found_explain(struct kith_writer *w, const struct kith_msg_explain *explain);
/* Head; then n_records times _record. */
void kith_msg_write_records(struct kith_writer *w, const struct kith_msg_slices *slices,
                            uint32_t n_records);
void kith_msg_write_record(struct kith_writer *w, const struct kith_record *record);
/* Head; then n_hits times _facet_hit (value: one msgpack scalar). */
void kith_msg_write_facets(struct kith_writer *w, const struct kith_msg_slices *slices,
                           uint32_t n_hits);
void kith_msg_write_facet_hit(struct kith_writer *w, struct kith_bytes value, uint64_t count);
/* Head with info[] for each slice; then n_fields times _info_field; then _info_recalls and n times
 * _info_recall. */
void kith_msg_write_infos(struct kith_writer *w, const struct kith_msg_slices *slices,
                          const struct kith_msg_info_slice *info, uint32_t n_fields);
void kith_msg_write_info_field(struct kith_writer *w, const struct kith_msg_info_field *field);
void kith_msg_write_info_recalls(struct kith_writer *w, uint32_t n);
void kith_msg_write_info_recall(struct kith_writer *w, const struct kith_msg_info_recall *recall);
void kith_msg_write_memories(struct kith_writer *w, const struct kith_msg_memories *msg);
void kith_msg_write_codebook(struct kith_writer *w, const struct kith_msg_codebook *msg);
void kith_msg_write_codebooked(struct kith_writer *w, const struct kith_msg_codebooked *msg);
void kith_msg_write_sample(struct kith_writer *w, const struct kith_msg_sample *msg);
void kith_msg_write_sampled(struct kith_writer *w, const struct kith_msg_sampled *msg);

/* ---- readers: false = malformed
 * ------------------------------------------------------------------ */
bool kith_msg_read_error(struct kith_bytes body, struct kith_msg_error *out);
bool kith_msg_read_scope_only(struct kith_bytes body, struct kith_msg_scope *out);
bool kith_msg_read_open(struct kith_bytes body, struct kith_msg_open *out);
bool kith_msg_read_write(struct kith_bytes body, struct kith_msg_write *out);
bool kith_msg_read_count(struct kith_bytes body, struct kith_msg_count *out);
bool kith_msg_read_scroll(struct kith_bytes body, struct kith_msg_scroll *out);
bool kith_msg_read_facet(struct kith_bytes body, struct kith_msg_facet *out);
bool kith_msg_read_fetch(struct kith_bytes body, struct kith_msg_fetch *out);
bool kith_msg_read_search(struct kith_bytes body, struct kith_msg_search *out);
bool kith_msg_search_next(struct kith_cursor *parts, uint32_t dim,
                          struct kith_msg_search_part *out);

bool kith_msg_read_slices_only(struct kith_bytes body, struct kith_msg_slices *out);
bool kith_msg_read_written(struct kith_bytes body, struct kith_msg_written *out);
bool kith_msg_read_counted(struct kith_bytes body, struct kith_msg_counted *out);
bool kith_msg_read_found(struct kith_bytes body, struct kith_msg_found *out);
bool kith_msg_found_part(struct kith_cursor *parts, uint64_t *matched, uint32_t *n_queries);
bool kith_msg_found_hits(struct kith_cursor *parts, struct kith_bytes *packed, uint32_t *n_hits);
bool kith_msg_found_explains(struct kith_cursor *parts, uint32_t *n);
bool kith_msg_found_explain(struct kith_cursor *parts, struct kith_msg_explain *out);
bool kith_hit_unpack(const uint8_t *packed,
                     struct kith_hit *out); /* KITH_HIT_BYTES; false: bad id or a NaN */
bool kith_msg_read_records(struct kith_bytes body, struct kith_msg_records *out);
bool kith_msg_records_next(struct kith_cursor *records, struct kith_record *out);
bool kith_msg_read_facets(struct kith_bytes body, struct kith_msg_facets *out);
bool kith_msg_facets_next(struct kith_cursor *hits, struct kith_bytes *value, uint64_t *count);
bool kith_msg_read_infos(struct kith_bytes body, struct kith_msg_infos *out);
bool kith_msg_infos_next(struct kith_cursor *fields, struct kith_msg_info_field *out);
bool kith_msg_info_recalls(struct kith_cursor *fields, uint32_t *n);
bool kith_msg_info_recall(struct kith_cursor *fields, struct kith_msg_info_recall *out);
bool kith_msg_read_memories(struct kith_bytes body, struct kith_msg_memories *out);
bool kith_msg_read_codebook(struct kith_bytes body, struct kith_msg_codebook *out);
bool kith_msg_read_codebooked(struct kith_bytes body, struct kith_msg_codebooked *out);
bool kith_msg_read_sample(struct kith_bytes body, struct kith_msg_sample *out);
bool kith_msg_read_sampled(struct kith_bytes body, struct kith_msg_sampled *out);

#endif
