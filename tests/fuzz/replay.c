/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds every file of the directories (or files) named on the command line to the fuzz target, once each. */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "syncgate/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    struct buf content = BUF_INIT;
    if (base_read_file(path, 16 << 20, &content) != 0) {
        fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    /* An exact-size copy, so that AddressSanitizer sees a read past the end. */
    uint8_t *copy = malloc(content.len ? content.len : 1);
    SG_ASSERT(copy);
    if (content.len)
        memcpy(copy, content.ptr, content.len);
    LLVMFuzzerTestOneInput(copy, content.len);
    free(copy);
    buf_fini(&content);
    return 0;
}

int main(int argc, char **argv)
{
    int files = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            failed += replay_file(argv[i]);
            files++;
            continue;
        }
        for (struct dirent *entry; (entry = readdir(dir));) {
            if (entry->d_name[0] == '.')
                continue;
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
            failed += replay_file(path);
            files++;
        }
        closedir(dir);
    }
    printf("%d inputs replayed\n", files);
    return failed || files == 0;
}
