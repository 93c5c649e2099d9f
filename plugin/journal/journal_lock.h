#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace moetap::plugin {

/// The file `owner` in a journal's folder. The session that writes there holds a lock on it (flock) while it lives. Its
/// first line says who that is: "pid N on HOST since TIME (COMMAND)". The lock ends with the process, also after
/// kill -9; a child process after `fork` does not keep it. Errors are std::runtime_error with one line.
class JournalLock {
 public:
  /// Creates the folder and takes the lock. Throws if the file cannot be written, or if another session writes there,
  /// in this process or another: the message names it.
  explicit JournalLock(const std::string& folder);
  JournalLock(const JournalLock&) = delete;
  JournalLock& operator=(const JournalLock&) = delete;
  ~JournalLock();

  /// The line of the process that left a journal in the folder and lives no more; empty: there is none.
  const std::string& predecessor() const { return predecessor_; }

  /// Writes this process's line, with `keep_predecessor` as a second line unless that is empty. If this process dies,
  /// the next owner sees the last line as its predecessor.
  void claim(const std::string& keep_predecessor = "");

 private:
  bool lock_file();

  std::string path_;
  std::string predecessor_;
  int descriptor_ = -1;
  pid_t process_;
};

/// The line of the session that writes in the folder now; empty: none does.
std::optional<std::string> living_owner(const std::string& folder);

}  // namespace moetap::plugin
