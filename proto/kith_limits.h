/* Every maximum in Kith, with its reason. Full means an error now, not slowness later.
 * Sizes are bytes unless the name says otherwise; times are milliseconds. */
#ifndef KITH_LIMITS_H
#define KITH_LIMITS_H

/* --- collections and points ------------------------------------------------------------------ */
#define KITH_DIM_MAX           8192u /* widest embedding in use today is 4096; one row = 32 KiB */
#define KITH_NAME_MAX          64u   /* collection and field-of-registry names: [A-Za-z0-9_-] */
#define KITH_VECTOR_NAME_MAX   64u   /* a named vector */
#define KITH_PAYLOAD_MAX       (1u << 20) /* one point's payload as msgpack; keeps a WAL record small */
#define KITH_PAYLOAD_DEPTH_MAX 16u        /* nesting of JSON and msgpack; bounds recursion */
#define KITH_FIELD_PATH_MAX    256u       /* "a.b[].c" */
#define KITH_FIELDS_INDEXED_MAX                                                                    \
    256u /* columns of one segment; later fields are scanned, not lost */
#define KITH_COLLECTIONS_MAX           1000u
#define KITH_SLICES_PER_COLLECTION_MAX 256u
#define KITH_NODES_MAX                 256u
#define KITH_TEXT_MAX                  (64u * 1024) /* text to encode, UTF-8 bytes: about 100 book pages */

/* --- one request ----------------------------------------------------------------------------- */
#define KITH_HTTP_BODY_MAX    (32u << 20) /* 1000 points of 8192 floats need batches anyway */
#define KITH_HTTP_HEADER_MAX  (16u * 1024)
#define KITH_HTTP_HEADERS_MAX 64u
#define KITH_HTTP_URL_MAX     (8u * 1024)
#define KITH_K_MAX            10000u /* offset + limit; a heap of 10 k hits fits the L2 cache */
#define KITH_POINTS_PER_BATCH_MAX                                                                  \
    10000u /* points or ids in one request; body size is the other cap */
#define KITH_SEARCH_BATCH_MAX    1000u
#define KITH_OPS_PER_BATCH_MAX   1000u
#define KITH_FILTER_NODES_MAX    256u
#define KITH_FILTER_DEPTH_MAX    16u
#define KITH_FILTER_VALUES_MAX   16384u /* values of match any/except and has_id, per filter */
#define KITH_FACET_HITS_MAX      10000u
#define KITH_JSON_DEPTH_MAX      32u /* payload depth plus the envelope around it */
#define KITH_DEADLINE_DEFAULT_MS 10000u
#define KITH_DEADLINE_MAX_MS     60000u

/* --- the wire -------------------------------------------------------------------------------- */
#define KITH_FRAME_BODY_MAX    (64u << 20) /* twice the HTTP body: f32 is denser than its JSON */
#define KITH_MSGPACK_DEPTH_MAX 32u

/* --- queues and connections ------------------------------------------------------------------ */
#define KITH_HTTP_CONNECTIONS_MAX 1024u
#define KITH_HTTP_CONNECTIONS_PER_IP_MAX                                                           \
    1024u /* everything comes from one proxy or loopback today */
#define KITH_HTTP_IDLE_S             60u
#define KITH_HTTP_HEADER_TIMEOUT_S   10u          /* a half-sent request is closed after this */
#define KITH_HTTP_INFLIGHT_MAX       512u         /* admitted at once; beyond: 429 */
#define KITH_HTTP_INFLIGHT_BYTES_MAX (512u << 20) /* sum of admitted bodies; beyond: 429 */
#define KITH_NET_CONTEXTS            256u  /* requests a shard has in hand at once, per listener */
#define KITH_NET_ASKS_MAX            4096u /* requests outstanding to one peer; beyond: BUSY */
#define KITH_POOL_QUEUE_MAX          4096u /* tasks waiting in a worker pool; beyond: BUSY */
#define KITH_POOL_THREADS_MAX        64u
#define KITH_POOL_ALONE_NS           100000u /* of work before others are woken to help */
#define KITH_WRITE_QUEUE_MAX         1024u /* writes waiting for one slice's log; beyond: BUSY */
#define KITH_WRITE_GROUP_MAX         256u  /* writes sharing one fdatasync */
#define KITH_WRITE_PAUSE_MS_MAX                                                                    \
    50u /* a write waits at most so long for seals and merges to catch up: no one notices */
#define KITH_WRITE_ROOM_MS_MAX                                                                     \
    100u /* the same when there is no memory left to write to; beyond: BUSY */
#define KITH_ASIDE_MS_MAX                                                                          \
    2u /* what can wait makes way for a search so long at a time: most are over by then */
#define KITH_ASIDE_SEARCHED_MS                                                                     \
    1000u /* and leaves it a CPU so long after the last one: moving to and fro costs, too */
#define KITH_ASIDE_LOADED_MS                                                                       \
    100u /* there is a load if what can wait has worked since: longer than a sync takes */
#define KITH_REALTIME_WINDOW_MS      100u /* short enough for those who wait not to be missed */
#define KITH_REALTIME_BUDGET_MS                                                                    \
    40u /* of it a thread may go before all others: hundreds of searches a second */
#define KITH_REALTIME_LOOK_US                                                                      \
    200u /* a thread asks so often whether to: a search's length, and 0.5 % of a CPU at most */
#define KITH_PACER_US                                                                              \
    250u /* the kernel looks 16 times as often who runs; 10 us each, 4 % of a CPU */
#define KITH_PACER_CPUS_MAX          4u /* where there are more, one is free as a rule */
#define KITH_ENCODE_CACHE_ENTRIES    16384u

/* --- encoder files --------------------------------------------------------------------------- */
#define KITH_WORDVEC_WORDS_MAX                                                                     \
    (16u << 20)                         /* the largest public table has 12 M; row ids stay 32 bit */
#define KITH_WORDVEC_WORD_MAX      128u /* bytes; longer "words" are crawl noise and skipped */
#define KITH_DICTIONARY_BYTES_MAX  (64u << 20) /* read into memory; jieba's is 5 MB */
#define KITH_ENCODER_FILE_NAME_MAX 200u        /* leaves room for suffixes below NAME_MAX (255) */

/* --- storage --------------------------------------------------------------------------------- */
#define KITH_WAL_RECORD_MAX (KITH_FRAME_BODY_MAX + (1u << 20))
#define KITH_WAL_FILE_MAX   (256u << 20) /* rotate; bounds replay of one file to about a second */
#define KITH_HEAD_ROWS_MAX  32768u       /* bounds memory, and what is replayed at start */
#define KITH_HEAD_BYTES_MAX (64u << 20)
#define KITH_HEAD_REST_MS                                                                          \
    3000u /* a head without writes is sealed then: no bulk load pauses so long between batches */
#define KITH_SEGMENTS_MAX   64u    /* live segments of one slice; merges keep it below 25 */
#define KITH_SEGMENT_BLOCK  65536u /* bytes under one CRC32C */
#define KITH_SECTION_ALIGN  4096u  /* page size: sections are mapped and advised on their own */
#define KITH_SCRUB_BYTES_PER_S                                                                     \
    (64u << 20)                          /* 5 TB a day, and a few percent of what one SSD reads    \
                                          */
#define KITH_SCRUB_PERIOD_S (24u * 3600) /* between two rounds: bits rot over months */
#define KITH_DISK_RESERVE                                                                          \
    (64u << 20) /* kept back for deletes, checkpoints and merges: one sealed head and its log */
#define KITH_MAPS_MAX       65536u /* files mapped at once: the kernel's own default limit */
#define KITH_CLOSE_GRACE_MS 2000u  /* SIGTERM to exit */

/* --- approximate indexes --------------------------------------------------------------------- */
#define KITH_FAISS_TRAIN_ROWS_MAX                                                                  \
    (4u << 20)                          /* 64 for each of the most centroids; Faiss counts in int */
#define KITH_FAISS_CENTROIDS_MAX 65536u /* 2 * sqrt(n) of a billion rows */
#define KITH_FAISS_ROWS_MAX      (1u << 30) /* of one index; HNSW numbers rows by int */
#define KITH_FAISS_ROTATION_MAX  2048u      /* dimension: its cube is a minute of one core */
#define KITH_FAISS_FACTORY_MAX   128u /* characters; Faiss's regular expressions recurse on each */
#define KITH_FAISS_LISTS_MAX                                                                       \
    4096u /* of a collection: training them takes some 40 s of a core at 100 dimensions, and cannot    \
             be interrupted */
#define KITH_FAISS_SAMPLE_BYTES                                                                    \
    (256u << 20) /* of a segment's rows to train on: 43,000 of 1,536 dimensions */
#define KITH_FAISS_BYTES_MAX                                                                       \
    (UINT64_C(8) << 30) /* of a segment's index: on the heap, and twice while it is loaded */
#define KITH_FAISS_NPROBE_MAX    KITH_FAISS_CENTROIDS_MAX
#define KITH_FAISS_EF_MAX        KITH_K_MAX
#define KITH_FAISS_K_FACTOR_MAX  64u /* more than that says that the codes are too short */
#define KITH_CODEBOOK_MAX                                                                          \
    (256u << 20) /* of one from a peer; a sample of 1 GiB makes at most half of it */
#define KITH_CODEBOOK_PIECE (4u << 20) /* of one in a message: some ms of a link */
#define KITH_SAMPLE_PIECE   (8u << 20) /* rows of one answer: what a worker copies in some ms */
#define KITH_SAMPLE_PARTS   4096u      /* of a sample from one node; 1 GiB in pieces is 128 */

/* --- searches -------------------------------------------------------------------------------- */
#define KITH_FILTER_CACHE_BYTES   (64u << 20) /* a node's answers of filters: 500 over 1 M rows */
#define KITH_FILTER_CACHE_ENTRIES 16384u      /* answers over heads are small; bounds the table */

/* --- registry -------------------------------------------------------------------------------- */
#define KITH_REGISTRY_KEYS_MAX    100000u
#define KITH_REGISTRY_VALUE_MAX   (256u * 1024) /* etcd itself refuses 1.5 MiB */
#define KITH_REGISTRY_KEY_MAX     512u /* "slices/<id>/<n>" and the longest name fit many times */
#define KITH_REGISTRY_TXN_MAX     128u /* comparisons or changes of one transaction: etcd's own cap */
#define KITH_LEASE_TTL_S          10u  /* a dead node is noticed after this */
#define KITH_RPC_CONNECT_GRACE_MS 250u /* a request waits this long for a peer to be connected */

_Static_assert((unsigned long long)KITH_DIM_MAX * 4 * 1000 <= KITH_FRAME_BODY_MAX,
               "a batch of 1000 queries of the widest vectors fits one frame");
_Static_assert(KITH_HTTP_BODY_MAX <= KITH_FRAME_BODY_MAX,
               "a body that was accepted can be sent on");
_Static_assert(KITH_PAYLOAD_MAX < KITH_WAL_RECORD_MAX, "a point fits a WAL record");
_Static_assert(KITH_FRAME_BODY_MAX < KITH_WAL_RECORD_MAX, "a write fits a WAL record");

#endif
