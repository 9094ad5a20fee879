#include "common/kith_request.h"

#define TEXT_MAX 200u /* of another node's text in ours */

struct kith_net_msg *kith_request_begin(struct kith_writer *w)
{
    static const char header[KITH_FRAME_HEADER_BYTES];
    struct kith_net_msg *msg = kith_net_msg_new(0);
    *w = (struct kith_writer){.write = kith_net_msg_sink, .sink = msg};
    w->failed = msg == NULL || kith_net_msg_sink(msg, header, sizeof header) != 0;
    return msg;
}

bool kith_request_end(struct kith_net_msg *msg, const struct kith_writer *w,
                      const struct kith_frame *header)
{
    if (!w->failed)
        kith_frame_seal(kith_net_msg_data(msg), kith_net_msg_len(msg), header);
    return !w->failed;
}

enum kith_err kith_request_reply(struct kith_net_msg *reply, uint64_t cluster,
                                 enum kith_message message, struct kith_bytes *body,
                                 struct kith_diag *diag)
{
    struct kith_frame frame;
    struct kith_msg_error error;
    const uint8_t *data = kith_net_msg_data(reply);
    enum kith_err err = kith_frame_open(data, kith_net_msg_len(reply), cluster, &frame, diag);
    if (err != KITH_OK)
        return err;
    *body = (struct kith_bytes){data + KITH_FRAME_HEADER_BYTES, frame.body_bytes};
    if (frame.message == KITH_MSG_ERROR && kith_msg_read_error(*body, &error))
        return kith_fail(diag, error.err, "%.*s",
                         (int)(error.text.len < TEXT_MAX ? error.text.len : TEXT_MAX),
                         (const char *)error.text.data);
    if (frame.message != (uint16_t)message + 1)
        return kith_fail(diag, KITH_PROTOCOL, "message %u in answer to %u", frame.message,
                         (unsigned)message);
    return KITH_OK;
}
