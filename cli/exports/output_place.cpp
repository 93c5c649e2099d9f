#include "cli/exports/output_place.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <system_error>

#include "cli/terminal/command_error.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/temporary_path.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

// Tells a folder that a command of moetap made from any other: only such a folder is ever replaced.
std::string marker_of(const std::string& command) {
  return ".moetap_" + command;
}

[[noreturn]] void fail(const fs::path& path, const std::string& reason) {
  throw CommandError(fmt::format("cannot write {}: {}", path.string(), reason));
}

// On the disk before the name is: all files of the folder's file system.
void sync_files(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  const int failed = fs::is_directory(path) ? ::syncfs(descriptor) : ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (failed != 0 && error != EINVAL) fail(path, std::generic_category().message(error));
}

/// The error number, or 0. Without `replaces`, what is at `to` stays, but for an empty folder.
int rename_to(const fs::path& from, const fs::path& to, bool replaces) {
  if (!replaces && !fs::is_directory(from)) {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return errno;  // else the file system cannot
  }
  return std::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

/// Where the file system cannot exchange names, the old folder is away for a moment, and is put back if that fails.
void exchange(const fs::path& written, const fs::path& path) {
  if (::renameat2(AT_FDCWD, written.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail(path, std::generic_category().message(errno));
  std::error_code error, ignored;
  const fs::path old = written.string() + ".old";  // not a temporary name: nobody removes it
  fs::rename(path, old, error);
  if (error) fail(path, error.message());
  fs::rename(written, path, error);
  if (error) {
    fs::rename(old, path, ignored);
    fail(path, error.message());
  }
  fs::rename(old, written, ignored);
}

}  // namespace

OutputPlace::OutputPlace(const std::string& path, OutputKind kind, bool force, std::string command)
    : kind_(kind), force_(force), command_(std::move(command)) {
  path_ = fs::path(path).lexically_normal();
  if (!path_.has_filename()) path_ = path_.parent_path();
  check_free();
  std::error_code error;
  temporary_ = plugin::temporary_path(path_.string(), 0);
  make_parents();
  plugin::remove_left_temporaries(path_);
  if (kind_ == OutputKind::kFolder) {
    fs::create_directory(temporary_, error);
    if (error) fail(path_, error.message());
  }
}

void OutputPlace::check_free() const {
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  if (!fs::exists(status)) return;
  const bool is_folder = fs::is_directory(status);
  if (is_folder && kind_ == OutputKind::kFolder && fs::is_empty(path_, error)) return;
  if (!force_) {
    throw CommandError(
        fmt::format("{}: is there already; name another path, or replace it with --force", path_.string()));
  }
  if (is_folder != (kind_ == OutputKind::kFolder) || (is_folder && !fs::exists(path_ / marker_of(command_), error))) {
    throw CommandError(fmt::format("{}: is no {} and is not replaced; name another path", path_.string(),
                                   command_ == "export" ? "export of this format" : "output of moetap " + command_));
  }
}

void OutputPlace::make_parents() {
  std::error_code error;
  for (fs::path folder = path_.parent_path(); !folder.empty() && !fs::exists(folder, error);
       folder = folder.parent_path()) {
    new_folders_.push_back(folder);
  }
  if (new_folders_.empty()) return;
  fs::create_directories(path_.parent_path(), error);
  if (error) fail(path_, error.message());
}

OutputPlace::~OutputPlace() {
  if (committed_) return;
  std::error_code error;
  fs::remove_all(temporary_, error);
  for (const fs::path& folder : new_folders_) fs::remove(folder, error);  // leaves one that is not empty
}

std::string OutputPlace::parent() const {
  const fs::path parent = path_.parent_path();
  return parent.empty() ? "." : parent.string();
}

void OutputPlace::commit() {
  std::error_code error;
  if (kind_ == OutputKind::kFolder) {
    std::ofstream marker(temporary_ / marker_of(command_));
    marker << fmt::format("An output of moetap. It is replaced by moetap {} --force.\n", command_);
    if (!marker.flush()) fail(path_, "the disk refuses");
  }
  sync_files(temporary_);
  check_free();  // another command may have written it meanwhile
  const bool replaces = kind_ == OutputKind::kFolder && fs::exists(path_, error) && !fs::is_empty(path_, error);
  if (replaces) {
    exchange(temporary_, path_);  // a kill at any moment leaves one of the two under the name
  } else if (const int failure = rename_to(temporary_, path_, force_); failure != 0) {
    if (failure == EEXIST || failure == ENOTEMPTY) check_free();  // says what is there
    fail(path_, std::generic_category().message(failure));
  }
  committed_ = true;
  if (replaces) fs::remove_all(temporary_, error);
  plugin::sync_folder(parent());
}

}  // namespace moetap::cli
