// Calls that Swift's view of the C library leaves out, one line each. Every function keeps the system's convention:
// -1 and errno on failure. A call that this system does not have fails with EOPNOTSUPP.
#ifndef CPLATTER_H
#define CPLATTER_H

#include "CPlatterProgram.h"

#include <stdint.h>
#include <sys/types.h>

// Where the next data or hole begins at or after `offset`; -1 with ENXIO past the last data.
int64_t platter_seek_data(int fd, int64_t offset);
int64_t platter_seek_hole(int fd, int64_t offset);

// Gives the range back to the file system; it reads as zeros and the length stays.
int platter_punch(int fd, int64_t offset, int64_t length);
// Makes the range read as zeros, by unwritten extents where the file system has them; may grow the file.
int platter_zero_range(int fd, int64_t offset, int64_t length);
// Reserves space; may grow the file.
int platter_allocate(int fd, int64_t offset, int64_t length);
// Whether writes into space reserved just before cost less than those that let the file system choose a place later.
int platter_gains_by_reserving(int fd);

// Lets the system begin to bring what was written to the range to the disk; waits for nothing and promises nothing.
void platter_start_writing_back(int fd, int64_t offset, int64_t length);

// Bytes of a block device, and its logical sector size.
int platter_block_device_size(int fd, uint64_t *bytes);
int platter_block_device_sector(int fd, int *bytes);

// Open-file-description lock of one byte, never waiting: type is 0 shared, 1 exclusive, 2 unlock.
int platter_lock_byte(int fd, int64_t offset, int type);
// 1 when somebody else's lock of the byte stands against an exclusive one, 0 when none does.
int platter_byte_is_locked(int fd, int64_t offset);

// Flags for open(2) that Swift does not show: bypass the page cache; sync on every write.
int platter_open_direct_flag(void);
int platter_open_path(const char *path, int flags, int mode);

// A new file that has no name once this returns: made beside `path`, which ends in no particular way.
int platter_open_temporary(const char *path);

// A new file in a folder that has no name and is gone with its descriptor, unless it is given a name that is free.
int platter_open_nameless(const char *folder, int flags, int mode);
int platter_give_name(int fd, const char *path);

// Random bytes of the operating system; 0 or -1.
int platter_random(void *bytes, size_t count);

// Text of an encoding, by its name in iconv's terms, as UTF-8; returns its bytes, or -1.
ssize_t platter_to_utf8(const char *encoding, const uint8_t *text, size_t length, uint8_t *output, size_t capacity);

// Whether the processor computes CRC-32C itself.
int platter_has_crc32c(void);
// The CRC-32C register after `bytes`, by that instruction; neither start nor result is inverted here.
uint32_t platter_crc32c(uint32_t state, const void *bytes, size_t count);

#endif
