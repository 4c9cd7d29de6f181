#define _GNU_SOURCE
#include "CPlatter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <iconv.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/random.h>
#include <sys/vfs.h>
#else
#include <sys/disk.h>
#include <sys/random.h>
#endif

int64_t platter_seek_data(int fd, int64_t offset) { return lseek(fd, offset, SEEK_DATA); }
int64_t platter_seek_hole(int fd, int64_t offset) { return lseek(fd, offset, SEEK_HOLE); }

static int unsupported(void) {
  errno = EOPNOTSUPP;
  return -1;
}

#ifdef __linux__

static int allocate(int fd, int mode, int64_t offset, int64_t length) {
  int result;
  do {
    result = fallocate(fd, mode, offset, length);
  } while (result < 0 && errno == EINTR);
  return result;
}

int platter_punch(int fd, int64_t offset, int64_t length) {
  return allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}
int platter_zero_range(int fd, int64_t offset, int64_t length) {
  return allocate(fd, FALLOC_FL_ZERO_RANGE, offset, length);
}
int platter_allocate(int fd, int64_t offset, int64_t length) { return allocate(fd, 0, offset, length); }
int platter_gains_by_reserving(int fd) {
  struct statfs system;
  return fstatfs(fd, &system) == 0 && system.f_type == EXT4_SUPER_MAGIC;
}
void platter_start_writing_back(int fd, int64_t offset, int64_t length) {
  sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE);
}

int platter_block_device_size(int fd, uint64_t *bytes) { return ioctl(fd, BLKGETSIZE64, bytes); }
int platter_block_device_sector(int fd, int *bytes) { return ioctl(fd, BLKSSZGET, bytes); }

static struct flock lock_of(int64_t offset, short type) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
  return lock;
}
int platter_lock_byte(int fd, int64_t offset, int type) {
  struct flock lock = lock_of(offset, type == 0 ? F_RDLCK : type == 1 ? F_WRLCK : F_UNLCK);
  return fcntl(fd, F_OFD_SETLK, &lock);
}
int platter_byte_is_locked(int fd, int64_t offset) {
  struct flock lock = lock_of(offset, F_WRLCK);
  if (fcntl(fd, F_OFD_GETLK, &lock) < 0) return -1;
  return lock.l_type != F_UNLCK;
}

int platter_open_direct_flag(void) { return O_DIRECT; }

int platter_random(void *bytes, size_t count) {
  unsigned char *at = bytes;
  while (count > 0) {
    ssize_t got = getrandom(at, count, 0);
    if (got < 0 && errno != EINTR) return -1;
    if (got > 0) at += got, count -= (size_t)got;
  }
  return 0;
}

#else

int platter_punch(int fd, int64_t offset, int64_t length) {
  struct fpunchhole hole = {.fp_offset = offset, .fp_length = length};
  return fcntl(fd, F_PUNCHHOLE, &hole);
}
int platter_zero_range(int fd, int64_t offset, int64_t length) { return unsupported(); }
int platter_allocate(int fd, int64_t offset, int64_t length) { return unsupported(); }
int platter_gains_by_reserving(int fd) { return 0; }
void platter_start_writing_back(int fd, int64_t offset, int64_t length) {}

int platter_block_device_size(int fd, uint64_t *bytes) {
  uint32_t sector;
  uint64_t count;
  if (ioctl(fd, DKIOCGETBLOCKSIZE, &sector) < 0 || ioctl(fd, DKIOCGETBLOCKCOUNT, &count) < 0) return -1;
  *bytes = sector * count;
  return 0;
}
int platter_block_device_sector(int fd, int *bytes) { return ioctl(fd, DKIOCGETBLOCKSIZE, bytes); }

int platter_lock_byte(int fd, int64_t offset, int type) { return unsupported(); }
int platter_byte_is_locked(int fd, int64_t offset) { return unsupported(); }
int platter_open_direct_flag(void) { return 0; }
int platter_random(void *bytes, size_t count) {
  arc4random_buf(bytes, count);
  return 0;
}

#endif

int platter_open_path(const char *path, int flags, int mode) { return open(path, flags, mode); }

#ifdef O_TMPFILE
int platter_open_nameless(const char *folder, int flags, int mode) { return open(folder, flags | O_TMPFILE, mode); }
int platter_give_name(int fd, const char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  return linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}
#else
int platter_open_nameless(const char *folder, int flags, int mode) { return unsupported(); }
int platter_give_name(int fd, const char *path) { return unsupported(); }
#endif

int platter_open_temporary(const char *path) {
  char name[4096];
  if (snprintf(name, sizeof name, "%s-XXXXXX", path) >= (int)sizeof name) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int fd = mkstemp(name);
  if (fd >= 0) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    unlink(name);
  }
  return fd;
}

#ifdef __linux__
ssize_t platter_to_utf8(const char *encoding, const uint8_t *text, size_t length, uint8_t *output, size_t capacity) {
  iconv_t converter = iconv_open("UTF-8", encoding);
  if (converter == (iconv_t)-1) return -1;
  char *from = (char *)text, *to = (char *)output;
  size_t left = length, room = capacity;
  size_t result = iconv(converter, &from, &left, &to, &room);
  if (result != (size_t)-1) result = iconv(converter, NULL, NULL, &to, &room);
  iconv_close(converter);
  return result == (size_t)-1 ? -1 : (ssize_t)(capacity - room);
}
#else
ssize_t platter_to_utf8(const char *encoding, const uint8_t *text, size_t length, uint8_t *output, size_t capacity) {
  (void)encoding, (void)text, (void)length, (void)output, (void)capacity;
  return unsupported();
}
#endif
