#pragma once

#include <mutex>
#include <string>
#include <vector>

namespace moetap::cli {

/// Holds back the notices of sessions while it lives: if they were printed at once, they would break the progress bar,
/// and an error of the program would no longer be one line. One object at a time; thread-safe.
class HeldNotices {
 public:
  HeldNotices();
  ~HeldNotices();
  HeldNotices(const HeldNotices&) = delete;
  HeldNotices& operator=(const HeldNotices&) = delete;

  /// The first notice that begins with a text; empty: there is none.
  std::string first_that_begins(const std::string& text) const;

  /// Prints all of them to stderr, one a line.
  void print() const;

 private:
  mutable std::mutex mutex_;  // guards lines_
  std::vector<std::string> lines_;
};

}  // namespace moetap::cli
