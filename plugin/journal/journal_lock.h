#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace moetap::plugin {

/// The file `owner` of a journal's folder: locked (flock) by the session that writes there while it lives, and one line
/// that tells who that is: "pid N on HOST since TIME (COMMAND)". The lock goes with the process, also after kill -9; a
/// child process after `fork` does not keep it. Errors are std::runtime_error with one line.
class JournalLock {
 public:
  /// Creates the folder and locks it. Throws if it cannot be written, or if another session, of this process too,
  /// writes there: the message names it.
  explicit JournalLock(const std::string& folder);
  JournalLock(const JournalLock&) = delete;
  JournalLock& operator=(const JournalLock&) = delete;
  ~JournalLock();

  /// Who left a journal in the folder and lives no more; empty: nobody.
  const std::string& predecessor() const { return predecessor_; }

  /// Writes this process's line. With a note, that line is behind it and stays what the next owner sees as predecessor.
  void claim(const std::string& keep_predecessor = "");

 private:
  bool lock_file();

  std::string path_;
  std::string predecessor_;
  int descriptor_ = -1;
  pid_t process_;
};

/// The session that writes in the folder now; empty: none.
std::optional<std::string> living_owner(const std::string& folder);

}  // namespace moetap::plugin
