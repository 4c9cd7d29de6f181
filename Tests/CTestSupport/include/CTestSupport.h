// Calls for starting programs that Swift's view of the C library leaves out.
#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

#include <spawn.h>

// The process's variables, as the C library holds them.
char *_Nullable *_Nonnull test_environment(void);
// A pipe whose ends no other child inherits; 0 or -1.
int test_pipe(int ends[_Nonnull 2]);
int test_change_folder(posix_spawn_file_actions_t *_Nonnull actions, const char *_Nonnull folder);

#endif
