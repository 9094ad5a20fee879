#include "shard/storage/head_columns.h"

#include <stdatomic.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/head.h"

/* Rows never change once a view covers them; only whether they are gone does, and that is not in
 * columns. So a block is built once, by the first reader that wants it, from what its view shows,
 * and then belongs to the head. The state goes NEW -> BUILDING (by one thread: compare and swap) ->
 * READY or NEVER; READY is stored with release after the columns, and loaded with acquire.
 *
 * What lost: building in the writer thread (each write would pay for filters that may never come);
 * one section over a growing prefix (rebuilt again and again, or half the head walked); waiting for
 * the thread that builds (it is rarely worth more than walking one block). */

#define SECTION_ALIGN 32 /* what columns_open wants */

enum block_state { BLOCK_NEW, BLOCK_BUILDING, BLOCK_READY, BLOCK_NEVER };

struct block {
    atomic_int state;
    struct columns *columns;
    uint8_t *section; /* what the columns read */
};

struct head_columns {
    uint32_t n_blocks;
    struct block blocks[];
};

enum kith_err head_columns_new(struct head_columns **out, uint32_t rows_max, struct kith_diag *diag)
{
    uint32_t n_blocks = rows_max / HEAD_BLOCK_ROWS;
    struct head_columns *all = kith_alloc(sizeof *all + n_blocks * sizeof all->blocks[0]);
    if (all == NULL)
        return kith_fail(diag, KITH_NOMEM, "columns of a head");
    all->n_blocks = n_blocks;
    for (uint32_t i = 0; i < n_blocks; i++)
        atomic_init(&all->blocks[i].state, BLOCK_NEW);
    *out = all;
    return KITH_OK;
}

void head_columns_free(struct head_columns *all)
{
    if (all == NULL)
        return;
    for (uint32_t i = 0; i < all->n_blocks; i++) {
        columns_close(all->blocks[i].columns);
        kith_free(all->blocks[i].section);
    }
    kith_free(all);
}

static enum kith_err add_rows(struct column_builder *builder, const struct head *head,
                              uint32_t first)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < HEAD_BLOCK_ROWS; i++) {
        struct head_row row;
        head_row_get(head, first + i, &row);
        err = column_builder_add(builder, i, row.payload, NULL);
    }
    return err;
}

static enum kith_err build(struct block *block, const struct head *head, uint32_t first)
{
    struct column_builder *builder = NULL;
    struct kith_buf buf = {0};
    enum kith_err err = column_builder_new(&builder, NULL);
    if (err == KITH_OK)
        err = add_rows(builder, head, first);
    if (err == KITH_OK)
        err = column_builder_finish(builder, HEAD_BLOCK_ROWS, &buf, NULL);
    column_builder_free(builder);
    if (err == KITH_OK) {
        block->section = kith_alloc_aligned(SECTION_ALIGN, buf.len);
        if (block->section == NULL) {
            err = KITH_NOMEM;
        } else {
            memcpy(block->section, buf.data, buf.len);
            err = columns_open(&block->columns, block->section, buf.len, HEAD_BLOCK_ROWS, NULL);
        }
    }
    kith_buf_fini(&buf);
    return err;
}

const struct columns *head_columns_get(struct head_columns *all, const struct head *head,
                                       uint32_t index)
{
    kith_assert(index < all->n_blocks);
    struct block *block = &all->blocks[index];
    int state = atomic_load_explicit(&block->state, memory_order_acquire);
    if (state == BLOCK_READY)
        return block->columns;
    if (state != BLOCK_NEW ||
        !atomic_compare_exchange_strong(&block->state, &state, BLOCK_BUILDING))
        return NULL;
    enum kith_err err = build(block, head, index * HEAD_BLOCK_ROWS);
    atomic_store_explicit(&block->state, err == KITH_OK ? BLOCK_READY : BLOCK_NEVER,
                          memory_order_release);
    return err == KITH_OK ? block->columns : NULL;
}
