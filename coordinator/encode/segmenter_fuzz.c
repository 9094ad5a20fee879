/* A dictionary from a user, and folding of any bytes. */
#include <string.h>

#include "coordinator/encode/segmenter.h"
#include "coordinator/encode/textfold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct segmenter *seg = NULL;
    struct textfold fold;
    if (segmenter_load(&seg, (const char *)data, size, NULL) != KITH_OK) {
        return 0;
    }
    if (textfold_init(&fold, (const char *)data, size, NULL) == KITH_OK) {
        struct segmenter_words words = segmenter_words(seg);
        for (size_t at = 0; at < fold.n;) {
            enum textfold_class cls;
            size_t end = textfold_run(&fold, at, &cls);
            (void)segmenter_longest(&words, fold.cps + at, end - at, 1);
            at = end;
        }
        textfold_fini(&fold);
    }
    segmenter_free(seg);
    return 0;
}
