#include "plugin/journal/journal_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <stdexcept>

#include "plugin/formats/file_error.h"

namespace moetap::plugin {
namespace {

// Note [Locks and fork]
// A child process inherits its parent's descriptors, and with them the lock: a server's workers would keep the journal
// of a killed parent locked. So the child closes its copies right after `fork`. Only async-signal-safe calls are
// allowed there, so the descriptors are in a table of fixed size. Children do not close a lock that has no room in it.
constexpr size_t kMaxLocks = 256;
std::array<std::atomic<int>, kMaxLocks> locks;  // descriptor + 1; 0: free

void close_in_child() {
  for (auto& lock : locks) {
    const int descriptor = lock.exchange(0) - 1;
    if (descriptor >= 0) ::close(descriptor);
  }
}

void register_lock(int descriptor) {
  static const int registered = ::pthread_atfork(nullptr, nullptr, close_in_child);
  static_cast<void>(registered);
  for (auto& lock : locks) {
    int free = 0;
    if (lock.compare_exchange_strong(free, descriptor + 1)) return;
  }
}

void unregister_lock(int descriptor) {
  for (auto& lock : locks) {
    int known = descriptor + 1;
    if (lock.compare_exchange_strong(known, 0)) return;
  }
}

std::string content(int descriptor) {
  char text[2048] = {};
  return ::pread(descriptor, text, sizeof(text) - 1, 0) > 0 ? text : "";
}

std::string first_line(int descriptor) {
  const std::string text = content(descriptor);
  return text.substr(0, text.find('\n'));
}

std::string last_line(int descriptor) {
  std::string text = content(descriptor);
  while (text.ends_with('\n')) text.pop_back();
  const size_t end = text.rfind('\n');
  return end == std::string::npos ? text : text.substr(end + 1);
}

std::string describe_this_process() {
  char host[256] = {};
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::string line = fmt::format("pid {} on {} since {:%Y-%m-%dT%H:%M:%SZ} ({})", ::getpid(), host, utc,
                                 program_invocation_short_name);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

std::string or_unknown(const std::string& owner) {
  return owner.empty() ? "another process" : owner;
}

}  // namespace

JournalLock::JournalLock(const std::string& folder) : path_(folder + "/owner"), process_(::getpid()) {
  // Another run may end and remove the folders between two of these steps: then they are tried again.
  constexpr int kAttempts = 10;
  for (int attempt = 1; attempt <= kAttempts; ++attempt) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error == std::errc::no_such_file_or_directory && attempt < kAttempts) continue;
    if (error) throw std::runtime_error("cannot write " + path_ + ": " + error.message());
    if (!lock_file()) continue;
    try {
      predecessor_ = last_line(descriptor_);
    } catch (const std::exception&) {
      ::close(descriptor_);  // no destructor runs
      throw;
    }
    register_lock(descriptor_);
    return;
  }
  throw std::runtime_error("cannot write " + path_ + ": it is removed again and again");
}

bool JournalLock::lock_file() {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0 && errno == ENOENT) return false;
  if (descriptor_ < 0) throw_file_error("write", path_, errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error_number = errno;
    const std::string owner = or_unknown(first_line(descriptor_));
    ::close(descriptor_);
    if (error_number != EWOULDBLOCK) throw_file_error("lock", path_, error_number);
    throw std::runtime_error(std::filesystem::path(path_).parent_path().string() + ": is written by another session (" +
                             owner + "); name another output_dir, or wait until it has ended");
  }
  struct stat named {};
  struct stat locked {};
  if (::stat(path_.c_str(), &named) == 0 && ::fstat(descriptor_, &locked) == 0 && named.st_ino == locked.st_ino) {
    return true;
  }
  ::close(descriptor_);
  return false;
}

void JournalLock::claim(const std::string& keep_predecessor) {
  std::string line = describe_this_process() + "\n";
  if (!keep_predecessor.empty()) line += keep_predecessor + "\n";
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, line.data(), line.size(), 0) != static_cast<ssize_t>(line.size())) {
    throw_file_error("write", path_, errno);
  }
}

JournalLock::~JournalLock() {
  if (::getpid() != process_) return;  // Note [Locks and fork]
  unregister_lock(descriptor_);
  ::close(descriptor_);
}

std::optional<std::string> living_owner(const std::string& folder) {
  const int descriptor = ::open((folder + "/owner").c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  std::optional<std::string> owner;
  if (::flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) owner = or_unknown(first_line(descriptor));
  ::close(descriptor);
  return owner;
}

}  // namespace moetap::plugin
