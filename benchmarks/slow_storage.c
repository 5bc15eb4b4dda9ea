/* A folder seen through storage that takes its time: every open and every read waits first, many of them side by side.
 *
 *     slow_storage MICROSECONDS FOLDER MOUNTPOINT [FUSE's options]
 *
 * Read-only. Built by benchmarks/storage.py; needs libfuse 3 and its headers (libfuse3-dev, fuse3). */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[PATH_MAX];
static useconds_t delay;

static const char *real_path(const char *path, char *out)
{
    snprintf(out, PATH_MAX * 2, "%s%s", root, path);
    return out;
}

static int slow_getattr(const char *path, struct stat *out, struct fuse_file_info *info)
{
    char real[PATH_MAX * 2];
    (void)info;
    return stat(real_path(path, real), out) < 0 ? -errno : 0;
}

static int slow_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    char real[PATH_MAX * 2];
    DIR *folder = opendir(real_path(path, real));
    (void)offset, (void)info, (void)flags;
    if (!folder)
        return -errno;
    for (struct dirent *entry; (entry = readdir(folder));)
        fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int slow_open(const char *path, struct fuse_file_info *info)
{
    char real[PATH_MAX * 2];
    usleep(delay);
    int descriptor = open(real_path(path, real), O_RDONLY);
    if (descriptor < 0)
        return -errno;
    info->fh = descriptor;
    return 0;
}

static int slow_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
    (void)path;
    usleep(delay);
    ssize_t got = pread(info->fh, buffer, size, offset);
    return got < 0 ? -errno : (int)got;
}

static int slow_release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    return close(info->fh) < 0 ? -errno : 0;
}

static void *slow_init(struct fuse_conn_info *connection, struct fuse_config *settings)
{
    connection->max_background = 256;
    connection->congestion_threshold = 200;
    settings->attr_timeout = settings->entry_timeout = 60;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = slow_init,
    .getattr = slow_getattr,
    .readdir = slow_readdir,
    .open = slow_open,
    .read = slow_read,
    .release = slow_release,
};

int main(int count, char **arguments)
{
    if (count < 4 || !realpath(arguments[2], root)) {
        fprintf(stderr, "usage: %s MICROSECONDS FOLDER MOUNTPOINT [options]\n", arguments[0]);
        return 2;
    }
    delay = (useconds_t)atoi(arguments[1]);
    arguments[2] = arguments[0];
    return fuse_main(count - 2, arguments + 2, &operations, NULL);
}
